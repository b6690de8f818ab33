//! Datasets: images with their classes or objects.

mod class_folders;
mod class_list;
mod coco;
pub mod formats;
mod idx;
mod image_folder;
mod labels;
mod numpy;
pub mod pixels;
mod walk;

use std::path::Path;

/// The note of a dataset whose images serve both purposes.
fn same_images(images: &Path) -> String {
    format!(
        "calibration and evaluation use the same images, {}; on other images the quantized network may be worse",
        images.display()
    )
}
