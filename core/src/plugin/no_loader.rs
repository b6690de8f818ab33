//! Replaces the loader in builds without it.

use super::loaded::{cannot_load, Loaded};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Always `None`: this program does not use the shared library of the framework.
pub fn shared_library() -> Option<PathBuf> {
    None
}

/// Returns an error.
///
/// # Errors
/// Always: this program cannot load plugins.
pub fn load(path: &Path, _refused: &mut dyn FnMut(Error)) -> Result<Vec<Loaded>> {
    Err(cannot_load(path))
}
