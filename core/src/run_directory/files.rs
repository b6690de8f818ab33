//! Writing files so that a file that exists is complete.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How names of files end that are being written.
pub const PARTIAL: &str = ".partial";

/// Writes a file beside its final name, syncs it, renames it and syncs the folder. The folder is
/// not created: when it vanished during a run, that is an error.
pub fn write(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (partial, target) = (folder.join(format!("{name}{PARTIAL}")), folder.join(name));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(cause) = written {
        // Leaves room for others on a full disk; its own failure adds nothing to the message.
        let _ = std::fs::remove_file(&partial);
        return Err(Error::io("write", &target)(cause));
    }
    std::fs::rename(&partial, &target).map_err(Error::io("write", &target))?;
    // Other systems cannot open a folder, and write its entries on their own.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
    }
    Ok(())
}
