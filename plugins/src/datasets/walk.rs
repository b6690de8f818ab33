//! Walks through a data folder, and remembers what it passes over.

use super::formats::is_image;
use qdrop_core::prelude::*;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names that a note gives as examples.
const EXAMPLES: usize = 3;

/// Things of one kind that a walk passed over.
#[derive(Debug, Default)]
struct Passed {
    count: usize,
    examples: Vec<String>,
}

impl Passed {
    fn add(&mut self, root: &Path, path: &Path) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(path.strip_prefix(root).unwrap_or(path).display().to_string());
        }
    }

    /// Their number, kind and examples, such as `2 hidden files or folders (.git, a/._1.jpg)`.
    fn text(&self, one: &str, several: &str) -> Option<String> {
        let kind = if self.count == 1 { one } else { several };
        let such_as = if self.count > self.examples.len() { "such as " } else { "" };
        (self.count > 0).then(|| format!("{} {kind} ({such_as}{})", self.count, self.examples.join(", ")))
    }
}

/// A walk through a data folder.
#[derive(Debug)]
pub struct Walk<'a> {
    root: &'a Path,
    /// The folder without symbolic links in its path.
    real_root: PathBuf,
    no_images: Passed,
    hidden: Passed,
    broken_links: Passed,
    repeated: Passed,
    without_images: Passed,
    beside: Passed,
}

/// What is directly in a folder, sorted by name, without what is passed over.
#[derive(Debug, Default)]
pub struct Entries {
    /// Folders, and links to folders.
    pub folders: Vec<PathBuf>,
    /// Files and links to files; also pipes, sockets and devices, which are never opened.
    files: Vec<(PathBuf, bool)>,
}

impl<'a> Walk<'a> {
    /// Begins a walk through `root`.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn new(root: &'a Path) -> Result<Self> {
        let real_root = root.canonicalize().map_err(Error::io("open", root))?;
        let [no_images, hidden, broken_links, repeated, without_images, beside] = [(); 6].map(|()| Passed::default());
        Ok(Self { root, real_root, no_images, hidden, broken_links, repeated, without_images, beside })
    }

    /// The folder of the walk.
    pub fn root(&self) -> &'a Path {
        self.root
    }

    /// Whether `folder` is a link back to the folder of the walk.
    pub fn is_circle(&self, folder: &Path) -> bool {
        folder.canonicalize().is_ok_and(|real| real == self.real_root)
    }

    /// Lists a folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn entries(&mut self, folder: &Path) -> Result<Entries> {
        let read = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
        let entries = read.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.file_type()?))));
        let mut entries = entries.collect::<std::io::Result<Vec<_>>>().map_err(Error::io("list", folder))?;
        entries.sort_by(|(a, _), (b, _)| bytes(a).cmp(bytes(b)));
        let mut found = Entries::default();
        for (name, kind) in entries {
            let path = folder.join(&name);
            // Also those of macOS that begin with `._` and look like images.
            if bytes(&name).starts_with(b".") {
                self.hidden.add(self.root, &path);
                continue;
            }
            let (is_folder, is_file) = if kind.is_symlink() {
                match std::fs::metadata(&path) {
                    Ok(target) => (target.is_dir(), target.is_file()),
                    Err(_) => {
                        self.broken_links.add(self.root, &path);
                        continue;
                    }
                }
            } else {
                (kind.is_dir(), kind.is_file())
            };
            if is_folder {
                found.folders.push(path);
            } else {
                found.files.push((path, is_file));
            }
        }
        Ok(found)
    }

    /// The images among the files of a folder.
    pub fn images_of(&mut self, entries: Entries) -> Vec<PathBuf> {
        let mut images = Vec::new();
        for (path, is_file) in entries.files {
            if is_file && is_image(&path) {
                images.push(path);
            } else {
                self.no_images.add(self.root, &path);
            }
        }
        images
    }

    /// The images in `folder` and the folders below it, in the order of torchvision's ImageFolder: by the path of their
    /// folder, then by name. Symbolic links are followed; a folder that is reached twice is read once.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn images_below(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut seen = HashSet::new();
        // A link from below back to the whole folder is a circle.
        if folder != self.root {
            seen.insert(self.real_root.clone());
        }
        let mut folders: Vec<(PathBuf, Vec<PathBuf>)> = Vec::new();
        let mut waiting = vec![folder.to_path_buf()];
        while let Some(folder) = waiting.pop() {
            let real = folder.canonicalize().map_err(Error::io("open", &folder))?;
            if !seen.insert(real) {
                self.repeated.add(self.root, &folder);
                continue;
            }
            let mut entries = self.entries(&folder)?;
            waiting.extend(std::mem::take(&mut entries.folders).into_iter().rev());
            let images = self.images_of(entries);
            folders.push((folder, images));
        }
        folders.sort_by(|(a, _), (b, _)| bytes(a).cmp(bytes(b)));
        Ok(folders.into_iter().flat_map(|(_, images)| images).collect())
    }

    /// Remembers that a class folder holds no image.
    pub fn without_images(&mut self, folder: &Path) {
        self.without_images.add(self.root, folder);
    }

    /// The class folders without an image so far, as text.
    pub fn empty_folders(&self) -> Option<String> {
        self.without_images.text("without an image", "without an image")
    }

    /// Remembers that the files of these entries are beside the class folders.
    pub fn beside(&mut self, entries: &Entries) {
        for (path, _) in &entries.files {
            self.beside.add(self.root, path);
        }
    }

    /// What was passed over, if anything was.
    pub fn note(&self) -> Option<String> {
        let parts = [
            self.no_images.text("file that is no image", "files that are no images"),
            self.hidden.text("hidden file or folder", "hidden files or folders"),
            self.broken_links.text("broken symbolic link", "broken symbolic links"),
            self.repeated.text("link to a folder that was already read", "links to folders that were already read"),
            self.without_images.text("class folder without an image", "class folders without an image"),
            self.beside.text("file beside the class folders", "files beside the class folders"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("passed over in {}: {}", self.root.display(), parts.join("; ")))
    }
}

/// The bytes of a name or path. It need not be UTF-8.
pub fn bytes<P: AsRef<Path> + ?Sized>(path: &P) -> &[u8] {
    path.as_ref().as_os_str().as_encoded_bytes()
}

/// The last part of a path.
pub fn file_name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_os_string()
}
