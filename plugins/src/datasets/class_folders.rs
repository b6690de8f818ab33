//! Finds the images in a folder with one subfolder for each class.

use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The classes of ImageNet-1k (ILSVRC2012) in the order of their indices.
const IMAGENET_SYNSETS: &str = include_str!("imagenet_synsets.txt");
/// The value of `class_list` that selects them.
pub const IMAGENET: &str = "imagenet-1k";

/// The image files below `root` with their class indices, sorted by class and name.
///
/// `class_list` decides the class indices (a file with one folder name on each line, or
/// `imagenet-1k`); without it, the order of the folder names does.
pub fn find(root: &Path, class_list: Option<&Path>, classes: usize) -> Result<Vec<(PathBuf, usize)>> {
    let folders = folders(root)?;
    let index: HashMap<String, usize> = match class_list {
        None => folders.iter().cloned().enumerate().map(|(i, f)| (f, i)).collect(),
        Some(file) => read_class_list(file)?.into_iter().enumerate().map(|(i, f)| (f, i)).collect(),
    };
    let mut images = Vec::new();
    let mut filled = 0;
    for folder in &folders {
        let path = root.join(folder);
        let label = index.get(folder).copied().ok_or_else(|| {
            Error::data(&path, "this folder's name is not in the class list; remove the folder or fix `class_list`")
        })?;
        let before = images.len();
        let mut files: Vec<PathBuf> = entries(&path)?.into_iter().filter(|f| is_image(f)).collect();
        files.sort();
        images.extend(files.into_iter().map(|f| (f, label)));
        filled += usize::from(images.len() > before);
    }
    if images.is_empty() {
        let expected = "expected one folder for each class with .jpg, .jpeg or .png files in it";
        return Err(Error::data(root, format!("holds no images; {expected}")));
    }
    if filled == 1 {
        let message = "all images are in one class folder; is this the right level of the data folder?";
        return Err(Error::data(root, message));
    }
    if index.len() != classes {
        let message = match class_list {
            None => format!(
                "has {} class folders, but the classifier has {classes} classes; give `class_list` if some have no images",
                index.len()
            ),
            Some(file) => format!("the class list {} has {} classes, the classifier {classes}", file.display(), index.len()),
        };
        return Err(Error::data(root, message));
    }
    Ok(images)
}

fn read_class_list(file: &Path) -> Result<Vec<String>> {
    let text = match file.to_str() {
        Some(IMAGENET) => IMAGENET_SYNSETS.to_string(),
        _ => std::fs::read_to_string(file).map_err(Error::io("read", file))?,
    };
    // A line may also have a description after the name, as in ImageNet's own list.
    Ok(text.lines().filter_map(|l| l.split_whitespace().next()).map(String::from).collect())
}

fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(path).map_err(Error::io("list", path))?;
    read.map(|e| e.map(|e| e.path()).map_err(Error::io("list", path))).collect()
}

/// Names of the folders in `root`, sorted.
fn folders(root: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = entries(root)?
        .into_iter()
        .filter(|p| p.is_dir())
        .filter_map(|p| Some(p.file_name()?.to_str()?.to_string()))
        .filter(|n| !n.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

fn is_image(file: &Path) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png")
}
