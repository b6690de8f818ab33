//! Datasets: images with their classes.

mod class_folders;
mod idx;
mod image_folder;
pub mod pixels;
