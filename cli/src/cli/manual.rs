//! Shell completions and manual pages, generated from the definitions of the arguments.

use super::arguments::Arguments;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Name of the command; file names of pages begin with it.
const NAME: &str = "qdrop";

/// A script that completes commands, options and their values in a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    script
}

/// Writes one page for each command into the folder, which is created if it does not exist. Returns the files.
pub fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("writing manual pages to {}", folder.display()))?;
    let entries = std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with(NAME) && name.ends_with(".1") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
