//! Datasets: images with their classes.

mod class_folders;
mod class_list;
pub mod formats;
mod idx;
mod image_folder;
mod labels;
pub mod pixels;
mod walk;
