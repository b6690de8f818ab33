//! Images in one folder for each class, as in ImageNet, and folders without classes.

use super::class_list::ClassList;
use super::walk::{bytes, file_name, Entries, Walk};
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The images of a dataset.
#[derive(Debug)]
pub struct Found {
    /// Their files, with the index of the class if it is known.
    pub images: Vec<(PathBuf, Option<usize>)>,
    /// What was passed over, and how labels were understood.
    pub notes: Vec<String>,
}

/// The images in the class folders in `root` and in the folders below them, sorted by class folder, then as
/// [`Walk::images_below`] does. The class is that of the topmost folder: by `class_list`, or by the order of the folders'
/// names without one. With `unlabelled`, images without class folders are found too.
///
/// # Errors
/// There are no images, a folder belongs to no class or cannot be read, or there are not `classes` classes.
pub fn find(root: &Path, class_list: Option<&ClassList>, classes: usize, unlabelled: bool) -> Result<Found> {
    let mut walk = Walk::new(root)?;
    let entries = walk.entries(root)?;
    let mut images = Vec::new();
    let (mut folders, mut of_class) = (0, HashMap::new());
    for folder in &entries.folders {
        let inside = walk.images_below(folder)?;
        // Without a list each folder is a class, but a link back to the whole folder is none.
        let is_class = !walk.is_circle(folder);
        let label = match class_list {
            None => Some(folders),
            Some(list) => list.find(bytes(&file_name(folder)))?,
        };
        folders += usize::from(is_class);
        if inside.is_empty() {
            if is_class {
                walk.without_images(folder);
            }
            continue;
        }
        let Some(label) = label else {
            let message = "this folder's name is not in the class list; remove the folder or fix `class_list`";
            return Err(Error::data(folder, message));
        };
        if let Some(other) = of_class.insert(label, folder) {
            let message = format!("this folder and {} are of the same class in the class list", other.display());
            return Err(Error::data(folder, message));
        }
        images.extend(inside.into_iter().map(|file| (file, Some(label))));
    }
    if images.is_empty() {
        return without_classes(walk, entries, unlabelled);
    }
    if class_list.is_none() && folders != classes {
        let message = if folders == 1 {
            format!(
                "all images are in one class folder, but the classifier has {classes} classes; is this the right level of \
                 the data folder? Give `class_list` if it is"
            )
        } else {
            let empty = walk.empty_folders().map(|text| format!(", {text}")).unwrap_or_default();
            format!(
                "has {folders} class folders{empty}, but the classifier has {classes} classes; give `class_list` if some \
                 have no images"
            )
        };
        return Err(Error::data(root, message));
    }
    walk.beside(&entries);
    Ok(Found { images, notes: walk.note().into_iter().collect() })
}

/// The images directly in the folder of a walk that found none in class folders.
fn without_classes(mut walk: Walk<'_>, entries: Entries, unlabelled: bool) -> Result<Found> {
    let images = walk.images_of(entries);
    if images.is_empty() {
        let note = walk.note().map(|note| format!(" ({note})")).unwrap_or_default();
        let message = format!("holds no images; expected one folder for each class with images in it{note}");
        return Err(Error::data(walk.root(), message));
    }
    if !unlabelled {
        let message = format!(
            "holds {} images, but no class folders with images; sort them into one folder for each class, or give their \
             labels in a file with `labels`",
            images.len()
        );
        return Err(Error::data(walk.root(), message));
    }
    Ok(Found {
        images: images.into_iter().map(|file| (file, None)).collect(),
        notes: walk.note().into_iter().collect(),
    })
}

/// All images in `root` and in the folders below it, without classes.
///
/// # Errors
/// There are no images, or a folder cannot be read.
pub fn find_unlabelled(root: &Path) -> Result<Found> {
    let mut walk = Walk::new(root)?;
    let images: Vec<_> = walk.images_below(root)?.into_iter().map(|file| (file, None)).collect();
    let notes: Vec<String> = walk.note().into_iter().collect();
    if images.is_empty() {
        let note = notes.first().map(|note| format!(" ({note})")).unwrap_or_default();
        return Err(Error::data(root, format!("holds no images{note}")));
    }
    Ok(Found { images, notes })
}
