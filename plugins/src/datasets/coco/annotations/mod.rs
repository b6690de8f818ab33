//! Files with annotations in COCO's format: pictures, categories, and the objects in the pictures.

mod entries;
#[cfg(test)]
mod tests;

pub use entries::{AnnotatedPicture, Annotation, Category};

use qdrop_core::prelude::*;
use std::collections::HashSet;
use std::io::BufReader;
use std::path::Path;

/// A file whose parts fit together.
#[derive(Debug, Deserialize)]
#[serde(expecting = "the keys `images`, `annotations` and `categories`")]
pub struct Instances {
    /// The pictures, by ascending id.
    #[serde(rename = "images")]
    pub pictures: Vec<AnnotatedPicture>,
    /// The objects, by ascending id of their picture; those of one picture are in the order of the file.
    #[serde(rename = "annotations")]
    objects: Vec<Annotation>,
    /// The categories, in the order of the file.
    pub categories: Vec<Category>,
}

impl Instances {
    /// Reads a file. What it holds beside boxes, such as outlines, is passed over while reading, so that memory is needed for
    /// the boxes alone.
    ///
    /// # Errors
    /// It is no such file; something is missing, of a wrong type or impossible; ids are not unique, or refer to nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
        let read: Self = serde_json::from_reader(BufReader::with_capacity(BUFFER, file)).map_err(|e| {
            if e.is_io() {
                return Error::io("read", path)(e.into());
            }
            let what_to_do = match e.is_eof() {
                true => "the file is incomplete; copy or download it again",
                false => "correct it, or use a file in the format of COCO's `instances_val2017.json`",
            };
            Error::data(path, format!("cannot be read as annotations: {e}; {what_to_do}"))
        })?;
        read.checked().map_err(|e| Error::data(path, e))
    }

    /// Sorts pictures and objects, and checks that all fits together.
    fn checked(mut self) -> Result<Self, String> {
        let Self { pictures, objects, categories } = &mut self;
        let lengths = [("images", pictures.len()), ("annotations", objects.len()), ("categories", categories.len())];
        if let Some((key, _)) = lengths.iter().find(|(_, length)| *length == 0) {
            return Err(format!("`{key}` is an empty list; use a file with pictures, boxes and categories"));
        }
        let known_pictures = unique("images", pictures.iter().map(|picture| picture.id))?;
        let known_categories = unique("categories", categories.iter().map(|category| category.id))?;
        unique("annotations", objects.iter().map(|object| object.id))?;
        for Annotation { id, picture, category, .. } in &*objects {
            let (key, value, list) = match (known_pictures.contains(picture), known_categories.contains(category)) {
                (false, _) => ("image_id", picture, "images"),
                (_, false) => ("category_id", category, "categories"),
                _ => continue,
            };
            return Err(format!(
                "annotation {id}: its `{key}` {value} is not in `{list}`; remove the annotation or add what it refers to"
            ));
        }
        pictures.sort_by_key(|picture| picture.id);
        objects.sort_by_key(|object| object.picture);
        Ok(self)
    }

    /// The objects in the picture with this id, in the order of the file.
    pub fn objects_in(&self, picture: u64) -> &[Annotation] {
        let start = self.objects.partition_point(|object| object.picture < picture);
        let rest = &self.objects[start..];
        &rest[..rest.partition_point(|object| object.picture == picture)]
    }
}

/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;

/// The ids of a list, which must not repeat.
fn unique(list: &str, ids: impl Iterator<Item = u64>) -> Result<HashSet<u64>, String> {
    let mut known = HashSet::new();
    for id in ids {
        if !known.insert(id) {
            return Err(format!("two entries of `{list}` have the id {id}; ids must be unique, change or remove one"));
        }
    }
    Ok(known)
}
