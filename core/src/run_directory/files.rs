//! Writes files atomically: a file that exists is complete.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Suffix of files that are being written.
pub const PARTIAL: &str = ".partial";

/// Writes a file under a temporary name, syncs it, renames it and syncs the folder. It does not create the
/// folder: a folder that disappears during a run is an error.
pub fn write(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    write_file(&folder.join(name), content)
}

/// Checks that [`write_file`] can write the file, before long work whose result it shall be.
///
/// # Errors
/// The file cannot be written.
pub fn check_writable(target: &Path) -> Result<()> {
    if target.is_dir() {
        return Err(Error::data(target, "is a folder; give the name of a file"));
    }
    let partial = partial(target);
    File::create(&partial).and_then(|_| std::fs::remove_file(&partial)).map_err(Error::io("write", target))
}

/// Reads a file that [`write_json`] wrote; `None` if it does not exist.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn read_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| Error::data(file, format!("is damaged: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", file)(e)),
    }
}

/// Writes a value as JSON, as [`write_file`] does.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(target: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::message)?;
    write_file(target, text.as_bytes())
}

fn partial(target: &Path) -> PathBuf {
    let mut partial = target.as_os_str().to_os_string();
    partial.push(PARTIAL);
    PathBuf::from(partial)
}

/// Writes a file atomically: under a temporary name beside it, which is synced and renamed. It replaces an older file, and
/// does not create the folder.
///
/// # Errors
/// The file cannot be written.
pub fn write_file(target: &Path, content: &[u8]) -> Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = partial(target);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(cause) = written {
        // Frees space on a full disk. If this fails too, the first error is still the one to report.
        let _ = std::fs::remove_file(&partial);
        return Err(Error::io("write", target)(cause));
    }
    if let Err(cause) = std::fs::rename(&partial, target) {
        let _ = std::fs::remove_file(&partial);
        return Err(Error::io("write", target)(cause));
    }
    // Only Unix can open a folder to sync it.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
    }
    Ok(())
}
