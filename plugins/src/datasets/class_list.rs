//! Lists of class names, in the order of the class indices.

use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The classes of ImageNet-1k (ILSVRC2012) in the order of their indices.
const IMAGENET_SYNSETS: &str = include_str!("imagenet_synsets.txt");
/// The name that selects them.
pub const IMAGENET: &str = "imagenet-1k";

/// The names of all classes.
pub struct ClassList {
    /// The file, or `imagenet-1k`.
    pub file: PathBuf,
    /// The line number and text of each class.
    lines: Vec<(usize, Vec<u8>)>,
    /// The classes by whole lines.
    whole: HashMap<Vec<u8>, usize>,
    /// The classes by what may be the name at the beginning of a line.
    beginnings: HashMap<Vec<u8>, Vec<usize>>,
}

/// The line without a description after the name, which may be set off by a tab, a comma or a space.
fn beginnings(line: &[u8]) -> [&[u8]; 3] {
    let until = |end: fn(&u8) -> bool| line.split(end).next().unwrap_or(line).trim_ascii();
    [until(|b| *b == b'\t'), until(|b| *b == b','), until(u8::is_ascii_whitespace)]
}

impl ClassList {
    /// Reads a list with one name on each line, or takes that of ImageNet.
    ///
    /// # Errors
    /// The file cannot be read, holds no name, or holds a name twice.
    pub fn read(file: &Path) -> Result<Self> {
        let text = match file.to_str() {
            Some(IMAGENET) => IMAGENET_SYNSETS.as_bytes().to_vec(),
            _ => std::fs::read(file).map_err(Error::io("read", file))?,
        };
        let lines: Vec<(usize, Vec<u8>)> =
            lines(file, &text)?.into_iter().map(|(number, line)| (number, line.to_vec())).collect();
        if lines.is_empty() {
            return Err(Error::data(file, "holds no class name; it has one name on each line"));
        }
        let mut list = Self { file: file.into(), lines, whole: HashMap::new(), beginnings: HashMap::new() };
        for (class, (number, line)) in list.lines.iter().enumerate() {
            if let Some(first) = list.whole.insert(line.clone(), class) {
                let (name, first) = (list.text(first), list.lines[first].0);
                return Err(Error::data(file, format!("lists '{name}' twice, in line {first} and in line {number}")));
            }
            for name in beginnings(line) {
                let classes = list.beginnings.entry(name.to_vec()).or_default();
                if classes.last() != Some(&class) {
                    classes.push(class);
                }
            }
        }
        Ok(list)
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The text of a class's line.
    pub fn text(&self, class: usize) -> String {
        self.lines.get(class).map(|(_, line)| String::from_utf8_lossy(line).into_owned()).unwrap_or_default()
    }

    /// The class with this name: a whole line, or the beginning of one before a description.
    ///
    /// # Errors
    /// Several lines begin with the name, and none is the name alone.
    pub fn find(&self, name: &[u8]) -> Result<Option<usize>> {
        let name = name.trim_ascii();
        if let Some(class) = self.whole.get(name) {
            return Ok(Some(*class));
        }
        match self.beginnings.get(name).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([class]) => Ok(Some(*class)),
            Some(several) => {
                let lines: Vec<String> = several.iter().take(5).map(|c| self.lines[*c].0.to_string()).collect();
                let name = String::from_utf8_lossy(name);
                let message =
                    format!("several lines begin with '{name}' ({}): the class is ambiguous", lines.join(", "));
                Err(Error::data(&self.file, message))
            }
        }
    }
}

/// The lines of a text file with their numbers from 1, without blank ones and without white space at their ends. A byte
/// order mark of UTF-8 and all kinds of line ends are understood.
///
/// # Errors
/// The text is UTF-16.
pub fn lines<'a>(file: &Path, text: &'a [u8]) -> Result<Vec<(usize, &'a [u8])>> {
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(Error::data(file, "is UTF-16 text; save it as UTF-8"));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // Old files of macOS end their lines with a carriage return alone.
    let end = if text.contains(&b'\n') { b'\n' } else { b'\r' };
    let lines = text.split(|b| *b == end).enumerate().map(|(i, line)| (i + 1, line.trim_ascii()));
    Ok(lines.filter(|(_, line)| !line.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[u8]) -> Result<ClassList> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("classes.txt");
        std::fs::write(&file, text).unwrap();
        ClassList::read(&file)
    }

    #[test]
    fn names_are_whole_lines_or_their_beginnings() {
        let text = b"\xef\xbb\xbfgreat white shark\r\n\r\nn01440764 tench, Tinca tinca\r\ncock, rooster\r\nhen\ta bird  \r\n  caf\xe9 \r\n";
        let list = list(text).unwrap();
        assert_eq!(list.len(), 5);
        let classes: [(&[u8], Option<usize>); 9] = [
            (b"great white shark", Some(0)),
            (b"n01440764", Some(1)),
            (b"n01440764 tench", Some(1)),
            (b"cock", Some(2)),
            (b"hen", Some(3)),
            (b"caf\xe9", Some(4)),
            (b"great", Some(0)),
            (b"white", None),
            (b"Hen", None),
        ];
        for (name, class) in classes {
            assert_eq!(list.find(name).unwrap(), class, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!((list.text(1).as_str(), list.text(4).as_str()), ("n01440764 tench, Tinca tinca", "caf\u{fffd}"));
    }

    #[test]
    fn a_whole_line_goes_before_a_beginning_and_ambiguity_is_an_error() {
        let list = list(b"great egret\ngreat white shark\ngreat\ncrane bird\ncrane machine\n").unwrap();
        assert_eq!(list.find(b"great").unwrap(), Some(2));
        assert_eq!(list.find(b"great egret").unwrap(), Some(0));
        let error = list.find(b"crane").unwrap_err().to_string();
        assert!(
            error.ends_with("classes.txt: several lines begin with 'crane' (4, 5): the class is ambiguous"),
            "{error}"
        );
    }

    #[test]
    fn duplicates_and_other_encodings_are_errors() {
        let error = |text: &[u8]| list(text).err().unwrap().to_string();
        assert!(error(b"b\na\r\n\nb \na").ends_with("classes.txt: lists 'b' twice, in line 1 and in line 4"));
        assert!(error(b"\n \n").contains("holds no class name"));
        assert!(error(b"\xff\xfea\0\n\0").contains("is UTF-16 text; save it as UTF-8"));
        assert_eq!(list(b"a\rb\rc").unwrap().len(), 3);
    }

    #[test]
    fn imagenet_has_its_thousand_classes() {
        let list = ClassList::read(Path::new(IMAGENET)).unwrap();
        assert_eq!(
            (list.len(), list.find(b"n15075141").unwrap(), list.find(b"n01440764").unwrap()),
            (1000, Some(999), Some(0))
        );
    }
}
