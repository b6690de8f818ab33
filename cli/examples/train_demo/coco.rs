//! Pictures and annotations as files in COCO's format.

use crate::pictures::Picture;
use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::ExtendedColorType;
use std::path::Path;

const NAMES: [&str; 10] =
    ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
const QUALITY: u8 = 60;

/// Writes `part.json` and the pictures of the folder `part`.
pub fn write(folder: &Path, part: &str, pictures: &[Picture]) -> Result<()> {
    let images = folder.join(part);
    std::fs::create_dir_all(&images).with_context(|| format!("creating {}", images.display()))?;
    let (mut entries, mut annotations) = (Vec::new(), Vec::new());
    for (i, picture) in pictures.iter().enumerate() {
        let (id, Picture { width, height, .. }) = (i + 1, picture);
        let name = format!("{id:04}.jpg");
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(
            &picture.pixels,
            *width as u32,
            *height as u32,
            ExtendedColorType::Rgb8,
        )?;
        std::fs::write(images.join(&name), bytes)?;
        entries.push(format!(r#"{{"id":{id},"file_name":"{name}","width":{width},"height":{height}}}"#));
        for object in &picture.objects {
            let [x1, y1, x2, y2] = object.bbox;
            let (number, category, [w, h]) = (annotations.len() + 1, object.label + 1, [x2 - x1, y2 - y1]);
            annotations.push(format!(
                r#"{{"id":{number},"image_id":{id},"category_id":{category},"bbox":[{x1:.1},{y1:.1},{w:.1},{h:.1}],"area":{:.0},"iscrowd":0}}"#,
                w * h
            ));
        }
    }
    let categories: Vec<String> =
        NAMES.iter().enumerate().map(|(i, name)| format!(r#"{{"id":{},"name":"{name}"}}"#, i + 1)).collect();
    let [images, annotations, categories] = [entries, annotations, categories].map(|list| list.join(",\n"));
    let json =
        format!("{{\"images\":[\n{images}],\n\"annotations\":[\n{annotations}],\n\"categories\":[\n{categories}]}}\n");
    Ok(std::fs::write(folder.join(format!("{part}.json")), json)?)
}
