//! The entries of a file with annotations, checked one by one.

use qdrop_core::prelude::*;
use serde_json::Value;

/// A picture.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawPicture")]
pub struct AnnotatedPicture {
    /// Its number.
    pub id: u64,
    /// The name of its file, below the folder of the pictures.
    pub file_name: String,
    /// Its width in pixels.
    pub width: usize,
    /// Its height in pixels.
    pub height: usize,
}

/// A category of objects.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawCategory")]
pub struct Category {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
}

/// An object in a picture.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawAnnotation")]
pub struct Annotation {
    /// Its number.
    pub id: u64,
    /// The number of its picture.
    pub picture: u64,
    /// The number of its category.
    pub category: u64,
    /// Left, top, width and height of its box in pixels.
    pub bbox: [f64; 4],
    /// The area of its shape in pixels.
    pub area: f64,
    /// Whether it is a group of objects.
    pub crowd: bool,
}

/// An entry of `images` as it is written. What is missing is null.
#[derive(Deserialize, Default)]
#[serde(default, expecting = "a picture, which has the keys `id`, `file_name`, `width` and `height`")]
struct RawPicture {
    id: Value,
    file_name: Value,
    width: Value,
    height: Value,
}

impl TryFrom<RawPicture> for AnnotatedPicture {
    type Error = String;

    fn try_from(raw: RawPicture) -> Result<Self, String> {
        let entry = Entry("picture", &raw.id);
        let side = |key, value| match entry.whole(key, value)? {
            0 => Err(entry.wrong(key, value, "a number of pixels from 1 on")),
            side => usize::try_from(side).map_err(|_| entry.wrong(key, value, "a number of pixels")),
        };
        Ok(Self {
            id: entry.whole("id", &raw.id)?,
            file_name: entry.text("file_name", &raw.file_name)?,
            width: side("width", &raw.width)?,
            height: side("height", &raw.height)?,
        })
    }
}

/// An entry of `categories` as it is written.
#[derive(Deserialize, Default)]
#[serde(default, expecting = "a category, which has the keys `id` and `name`")]
struct RawCategory {
    id: Value,
    name: Value,
}

impl TryFrom<RawCategory> for Category {
    type Error = String;

    fn try_from(raw: RawCategory) -> Result<Self, String> {
        let entry = Entry("category", &raw.id);
        Ok(Self { id: entry.whole("id", &raw.id)?, name: entry.text("name", &raw.name)? })
    }
}

/// An entry of `annotations` as it is written.
#[derive(Deserialize, Default)]
#[serde(
    default,
    expecting = "an annotation, which has the keys `id`, `image_id`, `category_id`, `bbox`, `area` and `iscrowd`"
)]
struct RawAnnotation {
    id: Value,
    image_id: Value,
    category_id: Value,
    bbox: Value,
    area: Value,
    iscrowd: Value,
}

impl TryFrom<RawAnnotation> for Annotation {
    type Error = String;

    fn try_from(raw: RawAnnotation) -> Result<Self, String> {
        let entry = Entry("annotation", &raw.id);
        // pycocotools takes a match with the id 0 for none.
        let id = match entry.whole("id", &raw.id)? {
            0 => return Err(entry.wrong("id", &raw.id, "a whole number from 1 on; number the annotations anew")),
            id => id,
        };
        let numbers: Option<Vec<f64>> =
            raw.bbox.as_array().and_then(|values| values.iter().map(Value::as_f64).collect());
        let bbox = match numbers.as_deref() {
            Some([left, top, width, height]) if *width >= 0.0 && *height >= 0.0 => [*left, *top, *width, *height],
            Some([_, _, _, _]) => {
                let wanted = "left, top, width and height of a box; its width or height is negative";
                return Err(entry.wrong("bbox", &raw.bbox, wanted));
            }
            _ => return Err(entry.wrong("bbox", &raw.bbox, "four numbers: left, top, width and height")),
        };
        let area = match raw.area.as_f64() {
            Some(area) if area >= 0.0 => area,
            _ => return Err(entry.wrong("area", &raw.area, "a number from 0 on")),
        };
        let crowd = match raw.iscrowd.as_u64() {
            Some(crowd @ 0..=1) => crowd == 1,
            _ => return Err(entry.wrong("iscrowd", &raw.iscrowd, "0 or 1")),
        };
        let (picture, category) =
            (entry.whole("image_id", &raw.image_id)?, entry.whole("category_id", &raw.category_id)?);
        Ok(Self { id, picture, category, bbox, area, crowd })
    }
}

/// The kind of an entry and its id, for messages.
#[derive(Clone, Copy)]
struct Entry<'a>(&'static str, &'a Value);

impl Entry<'_> {
    fn wrong(self, key: &str, value: &Value, wanted: &str) -> String {
        let name = match self.1.as_u64() {
            Some(id) => format!("{} {id}", self.0),
            None => format!("one {}", self.0),
        };
        match value {
            Value::Null => format!("{name} has no `{key}`, which is {wanted}"),
            value => {
                let text = value.to_string();
                let shown: String = text.chars().take(SHOWN).collect();
                let more = if shown.len() < text.len() { "..." } else { "" };
                format!("{name}: `{key}` is {shown}{more}, not {wanted}")
            }
        }
    }

    fn whole(self, key: &str, value: &Value) -> Result<u64, String> {
        value.as_u64().ok_or_else(|| self.wrong(key, value, "a whole number from 0 on"))
    }

    fn text(self, key: &str, value: &Value) -> Result<String, String> {
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(text.into()),
            _ => Err(self.wrong(key, value, "a text that is not empty")),
        }
    }
}

/// The longest part of a value that a message shows, in characters.
const SHOWN: usize = 60;
