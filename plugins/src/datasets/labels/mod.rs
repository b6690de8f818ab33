//! Lists of labels for images that are not sorted into class folders.

mod numbers;

pub use numbers::Numbers;

use super::class_folders::{find_unlabelled, Found};
use super::class_list::{lines, ClassList};
use super::walk::{bytes, file_name};
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A list of labels and how it is read.
pub struct Labels<'a> {
    /// The list.
    pub file: &'a Path,
    /// What numbers mean; without it, the numbers decide.
    pub numbers: Option<Numbers>,
    /// The names of the classes.
    pub class_list: Option<&'a ClassList>,
    /// Number of classes.
    pub classes: usize,
}

/// A line's number and its label.
type Label<'t> = (usize, &'t [u8]);

impl Labels<'_> {
    /// The images of `folder` with their classes. The list has one of two forms: a name and a label on each line, or one
    /// label on each line, in the order of the images' names.
    ///
    /// # Errors
    /// A line cannot be understood, names a file that does not exist or one that another line names, or has an impossible
    /// label; or there is not one label for each image.
    pub fn find(&self, folder: &Path) -> Result<Found> {
        let Found { images, notes } = find_unlabelled(folder)?;
        let files: Vec<PathBuf> = images.into_iter().map(|(file, _)| file).collect();
        let text = std::fs::read(self.file).map_err(Error::io("read", self.file))?;
        let lines = lines(self.file, &text)?;
        if lines.is_empty() {
            return Err(self.error("holds no label"));
        }
        // A label alone is a single word, or the name of a class.
        let mut named = false;
        for (_, line) in &lines {
            named |= line.iter().any(|b| is_separator(*b)) && self.class_named(line)?.is_none();
        }
        let (files, labels, mut more) =
            if named { self.by_name(folder, files, &lines)? } else { self.in_order(folder, files, &lines)? };
        let (classes, understood) = self.classes_of(&labels, named)?;
        more.extend(notes);
        more.extend(understood);
        Ok(Found { images: files.into_iter().zip(classes.into_iter().map(Some)).collect(), notes: more })
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::data(self.file, message)
    }

    /// The class with the name `label`, or the name before a description such as the boxes of ImageNet's solutions.
    fn class_named(&self, label: &[u8]) -> Result<Option<usize>> {
        let Some(list) = self.class_list else { return Ok(None) };
        match list.find(label)? {
            None => list.find(label.split(u8::is_ascii_whitespace).next().unwrap_or(label)),
            class => Ok(class),
        }
    }

    /// Labels without names, for the files in their order.
    fn in_order<'t>(&self, folder: &Path, files: Vec<PathBuf>, lines: &[Label<'t>]) -> Result<Labelled<'t>> {
        if lines.len() != files.len() {
            return Err(self.error(format!(
                "has {} labels, but {} has {} images; a list without names needs one label for each image, in the order of \
                 their names",
                lines.len(),
                folder.display(),
                files.len()
            )));
        }
        Ok((files, lines.to_vec(), Vec::new()))
    }

    /// Names with labels: the named files in their order in the folder.
    fn by_name<'t>(&self, folder: &Path, files: Vec<PathBuf>, lines: &[Label<'t>]) -> Result<Labelled<'t>> {
        let names = Names::new(folder, &files);
        let mut labels: Vec<Option<Label<'t>>> = vec![None; files.len()];
        let (mut missing, mut further) = (None, 0);
        for (i, (number, line)) in lines.iter().enumerate() {
            match names.split(line) {
                Some((_, b"")) => {
                    let name = String::from_utf8_lossy(line);
                    return Err(self.error(format!("line {number}: there is no label after the name '{name}'")));
                }
                Some((index, label)) => {
                    if let Some((first, _)) = labels[index].replace((*number, label)) {
                        let name = names.shown(index);
                        return Err(self.error(format!("lists {name} twice, in line {first} and in line {number}")));
                    }
                }
                // A heading, as in tables with commas.
                None if i == 0 && is_heading(line) => {}
                None => match missing {
                    None => missing = Some((number, line)),
                    Some(_) => further += 1,
                },
            }
        }
        if let Some((number, line)) = missing {
            let end = line.iter().rposition(|b| is_separator(*b)).unwrap_or(line.len());
            let name = String::from_utf8_lossy(line[..end].trim_ascii());
            let others =
                if further > 0 { format!(", as well as those of {further} more lines") } else { String::new() };
            let message = format!("line {number}: the file '{name}' is not in {}{others}", folder.display());
            return Err(self.error(message));
        }
        let mut notes = Vec::new();
        let unlisted: Vec<usize> = (0..files.len()).filter(|i| labels[*i].is_none()).collect();
        if !unlisted.is_empty() {
            let examples: Vec<String> = unlisted.iter().take(3).map(|i| names.shown(*i)).collect();
            notes.push(format!(
                "{} of {} images of {} are not in the list {} and do not count, such as {}",
                unlisted.len(),
                files.len(),
                folder.display(),
                self.file.display(),
                examples.join(", ")
            ));
        }
        drop(names);
        let (files, labels) = files.into_iter().zip(labels).filter_map(|(file, label)| Some((file, label?))).unzip();
        Ok((files, labels, notes))
    }

    /// The classes of labels, and how they were understood if that is not certain.
    fn classes_of(&self, labels: &[Label<'_>], named: bool) -> Result<(Vec<usize>, Option<String>)> {
        let numbers: Vec<Option<usize>> = labels.iter().map(|(_, label)| numbers::parse(label)).collect();
        if self.numbers.is_none() {
            let classes = labels.iter().map(|(_, label)| self.class_named(label)).collect::<Result<Vec<_>>>()?;
            // Where some are names, a mistake is the label that is neither a name nor a number.
            let neither = classes.iter().zip(&numbers).position(|(class, number)| class.or(*number).is_none());
            if let Some(i) = neither {
                return Err(self.not_a_class(labels[i]));
            }
            if let Some(classes) = classes.iter().copied().collect::<Option<Vec<usize>>>() {
                // Names such as `7` may be numbers as well.
                let differ = classes.iter().zip(&numbers).position(|(class, n)| n.is_some_and(|n| n != *class));
                let note = differ.map(|i| {
                    format!(
                        "the labels of {} are names of the class list, such as '{}' for class {}; `label_numbers` can say \
                         that they are numbers",
                        self.file.display(),
                        String::from_utf8_lossy(labels[i].1),
                        classes[i]
                    )
                });
                return Ok((classes, note));
            }
        }
        let number = |(number, label): (&Option<usize>, &Label<'_>)| match number {
            Some(number) => Ok((label.0, *number)),
            None if self.numbers.is_none() => {
                let name = String::from_utf8_lossy(label.1);
                Err(self
                    .error(format!("line {}: '{name}' is the name of a class, but other labels are numbers", label.0)))
            }
            None => Err(self.not_a_class(*label)),
        };
        let numbers = numbers.iter().zip(labels).map(number).collect::<Result<Vec<_>>>()?;
        self.classes_of_numbers(&numbers, named)
    }

    fn not_a_class(&self, (line, label): Label<'_>) -> Error {
        let label = String::from_utf8_lossy(label);
        let what = match self.class_list {
            Some(list) => format!("a name of the class list {}", list.file.display()),
            None => "a name, which needs `class_list`".into(),
        };
        self.error(format!("line {line}: '{label}' is neither the number of a class nor {what}"))
    }
}

/// Files, their labels, and notes for the user.
type Labelled<'t> = (Vec<PathBuf>, Vec<Label<'t>>, Vec<String>);

fn is_separator(b: u8) -> bool {
    b.is_ascii_whitespace() || b == b',' || b == b';'
}

/// Whether the first line of a list is the heading of its columns: words with a comma, semicolon or tab between them.
fn is_heading(line: &[u8]) -> bool {
    let separated = line.iter().any(|b| matches!(b, b',' | b';' | b'\t'));
    let name = line.split(|b| is_separator(*b)).next().unwrap_or_default();
    separated && !line.iter().any(u8::is_ascii_digit) && !name.contains(&b'.')
}

/// The names under which a list may name the images of a folder.
struct Names<'a> {
    folder: &'a Path,
    files: &'a [PathBuf],
    /// By the path below the folder, by the file's name, and by the name without its extension. `None`: several files
    /// have the name.
    maps: [HashMap<&'a [u8], Option<usize>>; 3],
}

impl<'a> Names<'a> {
    fn new(folder: &'a Path, files: &'a [PathBuf]) -> Self {
        let mut maps: [HashMap<&[u8], Option<usize>>; 3] = Default::default();
        for (i, file) in files.iter().enumerate() {
            let below = file.strip_prefix(folder).unwrap_or(file);
            let keys = [Some(bytes(below)), file.file_name().map(bytes), file.file_stem().map(bytes)];
            for (map, key) in maps.iter_mut().zip(keys) {
                if let Some(key) = key {
                    map.entry(key).and_modify(|index| *index = None).or_insert(Some(i));
                }
            }
        }
        Self { folder, files, maps }
    }

    /// The path below the folder, for readers.
    fn shown(&self, index: usize) -> String {
        let file = &self.files[index];
        file.strip_prefix(self.folder).unwrap_or(file).display().to_string()
    }

    fn index(&self, name: &[u8]) -> Option<usize> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let last = file_name(self.folder);
        let inside = name.strip_prefix(bytes(&last)).and_then(|rest| rest.strip_prefix(b"/"));
        let [paths, names, stems] = &self.maps;
        let get = |map: &HashMap<&[u8], Option<usize>>, key: &[u8]| map.get(key).copied().flatten();
        get(paths, name).or_else(|| get(paths, inside?)).or_else(|| get(names, name)).or_else(|| get(stems, name))
    }

    /// The image that a line begins with, and the label after it. Names may contain separators, so that the longest
    /// beginning that is a name counts.
    fn split<'t>(&self, line: &'t [u8]) -> Option<(usize, &'t [u8])> {
        let unquoted = |name: &'t [u8]| name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")).unwrap_or(name);
        let ends = (0..line.len()).rev().filter(|i| is_separator(line[*i])).chain([line.len()]);
        // The whole line last: a name without a label.
        ends.into_iter().find_map(|end| {
            let index = self.index(unquoted(line[..end].trim_ascii()))?;
            let label = line.get(end + 1..).unwrap_or_default().trim_ascii();
            Some((index, unquoted(label)))
        })
    }
}

#[cfg(test)]
mod tests;
