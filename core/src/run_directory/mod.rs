//! A run's directory: everything that is needed to resume the run after it was stopped, and its results.
//!
//! | file | content |
//! | --- | --- |
//! | `run.json` | the [`Manifest`]: everything that the result depends on |
//! | `recipe.yaml` | the recipe with all changes applied |
//! | `lock` | locked by the process that works in the directory |
//! | `events.jsonl` | the event log, one JSON object on each line |
//! | `checkpoints/` | ranges after calibration, then one file for each finished unit |
//! | `compare/N/` | checkpoints of the recipe's N-th variant |
//! | `float.json`, `compare-N.json` | results of finished stages |
//! | `sensitivity.json` | what each layer alone loses, if bits were chosen from it or it was analyzed |
//! | `sites.json` | what quantization did at each site, of a run without units; else the units' checkpoints say it |
//! | `model.safetensors`, `summary.json` | the final result |
//! | `images.json` | what was measured on single images |
//! | `flatness.json`, `.csv`, `.svg` | the loss around the quantized weights, if it was measured |
//! | `report.html` | the report |
//!
//! Every file is written under a temporary name, synced and renamed, so a file that exists is complete.

mod checkpoint;
mod events;
mod files;
mod manifest;
mod tensor_file;

pub use checkpoint::CheckpointFolder;
pub use events::EventLog;
pub use files::{check_writable, destination, partial, read_json, write_file, write_json};
pub use manifest::{check_weights, fingerprint_of_file, Fingerprint, Manifest};

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The quantized network as a [packed](crate::packed) file.
pub const MODEL_FILE: &str = "model.safetensors";
/// The recipe with all changes applied.
pub const RECIPE_FILE: &str = "recipe.yaml";
/// The measurements and the conditions of the run.
pub const SUMMARY_FILE: &str = "summary.json";
/// Everything that the result depends on.
pub const MANIFEST_FILE: &str = "run.json";
/// The event log.
pub const EVENTS_FILE: &str = "events.jsonl";
/// Locked by the process that works in the directory.
pub const LOCK_FILE: &str = "lock";
/// The folder of the checkpoints of the recipe itself.
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of the checkpoints of its variants.
pub const VARIANTS: &str = "compare";
/// The folder of cached values that do not fit into memory.
pub const SPILL: &str = "cache";
/// How long to wait for the lock. A killed process holds it until the system has freed its memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// A locked run directory.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// The system releases the lock when the process ends, however it ends.
    _lock: File,
}

impl RunDirectory {
    /// Begins a run in `path`, which must be empty or not exist.
    ///
    /// # Errors
    /// The directory is not empty, another process works in it, or it cannot be written.
    pub fn create(path: &Path, manifest: &Manifest) -> Result<Self> {
        Self::check_free(path)?;
        let directory = Self { path: path.into(), _lock: lock(path)? };
        // Another process may have begun a run after the first check and before the lock.
        Self::check_free(path)?;
        directory.store(MANIFEST_FILE, manifest)?;
        directory.write_recipe(manifest)?;
        Ok(directory)
    }

    /// Checks that a run can begin in `path`, and creates the directory if it does not exist.
    ///
    /// # Errors
    /// The directory holds a run or anything else, or cannot be created.
    pub fn check_free(path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(Error::io("create", path))?;
        check_free(path)
    }

    /// Checks that a run could begin in `path`, without creating anything.
    ///
    /// # Errors
    /// The directory holds a run or anything else, or it or a folder above it is a file.
    pub fn check_usable(path: &Path) -> Result<()> {
        match std::path::absolute(path).map_err(Error::io("resolve", path))?.ancestors().find(|p| p.exists()) {
            Some(found) if !found.is_dir() => Err(Error::data(found, "is a file; choose a folder for --out")),
            _ if path.exists() => check_free(path),
            _ => Ok(()),
        }
    }

    /// Opens the directory of an interrupted run.
    ///
    /// # Errors
    /// There is no run, another process works on it, or its recipe was changed.
    pub fn open(path: &Path) -> Result<(Self, Manifest)> {
        if !path.is_dir() {
            return Err(Error::data(path, "there is no such directory"));
        }
        if !path.join(MANIFEST_FILE).exists() {
            let message =
                format!("holds no run: {MANIFEST_FILE} is missing; start one with `qdrop quantize RECIPE --out DIR`");
            return Err(Error::data(path, message));
        }
        let directory = Self { path: path.into(), _lock: lock(path)? };
        let manifest: Manifest = directory
            .load(MANIFEST_FILE)?
            .ok_or_else(|| Error::data(path.join(MANIFEST_FILE), "vanished while it was opened"))?;
        let recipe_file = path.join(RECIPE_FILE);
        match std::fs::read_to_string(&recipe_file) {
            Ok(text) if text == manifest.recipe => {}
            Ok(_) => {
                let message = "was changed since the run began, and its finished units were made with the old recipe; \
                               undo the change, remove the file (the recipe of the run is written again), or start a \
                               new run with another --out";
                return Err(Error::data(&recipe_file, message));
            }
            // The run was stopped before it was written.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => directory.write_recipe(&manifest)?,
            Err(e) => return Err(Error::io("read", &recipe_file)(e)),
        }
        Ok((directory, manifest))
    }

    fn write_recipe(&self, manifest: &Manifest) -> Result<()> {
        files::write(&self.path, RECIPE_FILE, manifest.recipe.as_bytes())
    }

    /// Whether a process works in the directory `path` now.
    pub fn is_in_use(path: &Path) -> bool {
        let open = File::options().read(true).open(path.join(LOCK_FILE));
        open.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder for cached values that do not fit into memory, unless the recipe names another one.
    pub fn spill_folder(&self) -> PathBuf {
        self.path.join(SPILL)
    }

    /// Removes the folder of cached values, which is empty once they are freed.
    pub fn remove_spill_folder(&self) {
        // Nothing depends on it, and it may not exist, so an error does not matter.
        let _ = std::fs::remove_dir(self.spill_folder());
    }

    /// The checkpoints of the recipe itself (`None`) or of its variant with this index.
    pub fn checkpoints(&self, variant: Option<usize>) -> CheckpointFolder {
        CheckpointFolder::new(match variant {
            None => self.path.join(CHECKPOINTS),
            Some(i) => self.path.join(VARIANTS).join(i.to_string()),
        })
    }

    /// Saves the fingerprint of the calibration images the first time; from then on, compares it with the saved one.
    ///
    /// # Errors
    /// The calibration images differ from those that the run began with.
    pub fn check_calibration(&self, manifest: &mut Manifest, fingerprint: &str) -> Result<()> {
        match &manifest.calibration {
            Some(old) if old == fingerprint => Ok(()),
            Some(_) => {
                let message = "the calibration images differ from those that the run began with (files were added, \
                               removed or changed); restore them, or start a new run with another --out";
                Err(Error::data(&self.path, message))
            }
            None => {
                manifest.calibration = Some(fingerprint.into());
                self.store(MANIFEST_FILE, manifest)
            }
        }
    }

    /// Reads the result of a stage, if the stage was finished.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read_json(&self.path.join(name))
    }

    /// Writes the result of a stage.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(&self.path.join(name), value)
    }

    /// Writes a file of the result.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        files::write(&self.path, name, content)
    }
}

/// Returns an error if the directory holds a run or anything else that a run could overwrite.
fn check_free(path: &Path) -> Result<()> {
    if path.join(SUMMARY_FILE).exists() {
        return Err(Error::data(path, "holds the result of an earlier run; choose another --out or remove it"));
    }
    if path.join(MANIFEST_FILE).exists() {
        let message = format!(
            "holds an unfinished run; continue it with `qdrop resume {}`, choose another --out, or remove it",
            path.display()
        );
        return Err(Error::data(path, message));
    }
    for entry in std::fs::read_dir(path).map_err(Error::io("list", path))? {
        let name = entry.map_err(Error::io("list", path))?.file_name();
        let name = name.to_string_lossy();
        // These files are left over if a process was stopped before its run began.
        if name != LOCK_FILE && !name.ends_with(files::PARTIAL) {
            return Err(Error::data(path, format!("is not empty (it holds '{name}'); choose another --out")));
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join(LOCK_FILE);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&file);
    let mut handle = open.map_err(Error::io("open", &file))?;
    let start = Instant::now();
    let mut locked = handle.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        locked = handle.try_lock();
    }
    match locked {
        Ok(()) => {
            // The process id is only for the error message below; the lock itself is what excludes other processes.
            let number = std::process::id().to_string();
            let written =
                handle.set_len(0).and_then(|()| handle.rewind()).and_then(|()| handle.write_all(number.as_bytes()));
            written.map_err(Error::io("write", &file))?;
            Ok(handle)
        }
        Err(TryLockError::WouldBlock) => {
            let mut number = String::new();
            let known = handle.read_to_string(&mut number).is_ok_and(|n| n > 0);
            let process = if known { format!("process {number}") } else { "another process".into() };
            Err(Error::data(path, format!("{process} is working on this run; wait until it ends or stop it")))
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &file)(e)),
    }
}

#[cfg(test)]
mod tests;
