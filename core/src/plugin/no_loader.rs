//! Stands for the loader in builds without it.

use super::loaded::{cannot_load, Loaded};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The framework's shared library: this program has none.
pub fn shared_library() -> Option<PathBuf> {
    None
}

/// Refuses to load a plugin.
///
/// # Errors
/// Always: this program cannot load plugins.
pub fn load(path: &Path, _refused: &mut dyn FnMut(Error)) -> Result<Vec<Loaded>> {
    Err(cannot_load(path))
}
