//! The plugins of this process.

use super::Declaration;
use crate::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A plugin that is part of this process now.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its file, absolute.
    pub path: PathBuf,
    /// What it registered.
    pub declarations: Vec<Declaration>,
}

pub(super) static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// The plugins of this process, in the order of loading.
pub fn loaded() -> Vec<Loaded> {
    LOADED.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

/// What a program says that cannot load plugins.
pub(super) fn cannot_load(path: &Path) -> Error {
    let message = "this qdrop is a static build and cannot load plugins; use the distribution that `cargo run \
                   --release -p qdrop-dynamic --example package -- DIR` makes, or link the plugin's crate into \
                   a program of your own";
    Error::plugin(path, message)
}
