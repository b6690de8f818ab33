//! The manifest: everything that the result of a run depends on.

use super::MANIFEST_FILE;
use crate::error::{Error, Result};
use crate::plugin;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Everything that the result of a run depends on. A run can only be resumed if all of it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of qdrop.
    pub version: String,
    /// The device: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// SHA-256 of the files with the float weights.
    pub weights: String,
    /// SHA-256 of the preprocessed calibration images; `None` until they are loaded.
    pub calibration: Option<String>,
    /// SHA-256 of the loaded plugins by file name.
    #[serde(default)]
    pub plugins: BTreeMap<String, String>,
    /// The recipe as YAML text.
    pub recipe: String,
}

/// SHA-256 of the plugins of this process by file name.
fn loaded_plugins() -> Result<BTreeMap<String, String>> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    plugin::loaded().iter().map(|p| Ok((name(&p.path), fingerprint_of_file(&p.path)?))).collect()
}

impl Manifest {
    /// The manifest of a new run.
    ///
    /// # Errors
    /// The checkpoint cannot be read.
    pub fn new(recipe: String, weights: &[PathBuf], device: &str) -> Result<Self> {
        let weights = fingerprint_of_files(weights)?;
        let version = env!("CARGO_PKG_VERSION").into();
        Ok(Self { version, device: device.into(), weights, calibration: None, plugins: loaded_plugins()?, recipe })
    }

    /// The manifest of the run in `directory`, which may be in use.
    ///
    /// # Errors
    /// There is none, or it cannot be read or is damaged.
    pub fn read(directory: &Path) -> Result<Self> {
        let file = directory.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&file).map_err(Error::io("read", &file))?;
        serde_json::from_str(&text).map_err(|e| Error::data(&file, format!("is damaged: {e}")))
    }

    /// Checks that a run with this manifest can be resumed by this program, with these weights.
    ///
    /// # Errors
    /// The version, a plugin or the weights differ.
    pub fn check(&self, directory: &Path, weights: &[PathBuf]) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        if self.version != version {
            let message = format!(
                "the run began with qdrop {}, this is {version}: the results could differ; continue with the old version, \
                 or start a new run with another --out",
                self.version
            );
            return Err(Error::data(directory, message));
        }
        let plugins = loaded_plugins()?;
        for (name, hash) in &self.plugins {
            let problem = match plugins.get(name) {
                Some(now) if now == hash => continue,
                Some(_) => "was changed since",
                None => "is not loaded",
            };
            let message = format!(
                "the run began with the plugin {name}, which {problem}; restore it, or start a new run with another --out"
            );
            return Err(Error::data(directory, message));
        }
        check_weights(weights, &self.weights)
    }
}

/// Checks that these files with float weights are still those that a run began with, whose SHA-256 is given as hexadecimal
/// text.
///
/// # Errors
/// One cannot be read or differs.
pub fn check_weights(files: &[PathBuf], sha256: &str) -> Result<()> {
    if fingerprint_of_files(files)? != sha256 {
        let message =
            "is not the checkpoint that the run began with (its SHA-256 differs); restore it, or start a new run \
                       with another --out";
        return Err(Error::weights(files.first().map_or(Path::new(""), PathBuf::as_path), message));
    }
    Ok(())
}

/// Computes the SHA-256 of a sequence of values.
#[derive(Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds values.
    pub fn update(&mut self, values: &[f32]) {
        // In blocks of a few thousand, to avoid a copy of everything.
        for values in values.chunks(4096) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.0.update(&bytes);
        }
    }

    /// The digest as hexadecimal text.
    pub fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

/// The SHA-256 of a file as hexadecimal text.
///
/// # Errors
/// The file cannot be read.
pub fn fingerprint_of_file(file: &Path) -> Result<String> {
    fingerprint_of_files(&[file.into()])
}

/// The SHA-256 of files, one after the other, as hexadecimal text.
fn fingerprint_of_files(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files {
        let copied = File::open(file).and_then(|mut f| std::io::copy(&mut f, &mut hash));
        copied.map_err(Error::io("read", file))?;
    }
    Ok(hexadecimal(&hash.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
