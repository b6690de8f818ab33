//! The file behind values that do not fit the memory budget.

use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A nameless file: it vanishes with its last handle, however the process ends.
///
/// It is read and written at explicit positions rather than mapped: a full disk is then an error
/// of the write (a mapped page would end the process), and what was read does not stay resident.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    folder: PathBuf,
    length: u64,
}

impl SpillFile {
    /// A new file in `folder`, which is created.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create the cache folder", folder))?;
        let file = tempfile::tempfile_in(folder).map_err(Error::io("create a cache file in", folder))?;
        Ok(Self { file, folder: folder.into(), length: 0 })
    }

    /// Appends bytes and tells where they begin.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.length;
        self.file.write_all_at(bytes, offset).map_err(Error::io("write cached values to", &self.folder))?;
        self.length += bytes.len() as u64;
        Ok(offset)
    }

    /// Reads the bytes from `offset` on.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(Error::io("read cached values from", &self.folder))
    }
}
