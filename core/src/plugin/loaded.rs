//! The loaded plugins of this process.

use super::Declaration;
use crate::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A plugin that this process has loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Absolute path of its file.
    pub path: PathBuf,
    /// Its registrations.
    pub declarations: Vec<Declaration>,
}

pub(super) static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// All loaded plugins, in the order of loading.
pub fn loaded() -> Vec<Loaded> {
    LOADED.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

/// The error of a program that cannot load plugins.
pub(super) fn cannot_load(path: &Path) -> Error {
    let message = "this qdrop is a static build and cannot load plugins; use the distribution that `cargo run \
                   --release -p qdrop-dynamic --example package -- DIR` makes, or link the plugin's crate into \
                   a program of your own";
    Error::plugin(path, message)
}
