//! Reads a plugin's file without running it.

use super::record::parse;
use super::{Declaration, Stamp, LIBRARY};
use crate::error::{Error, Result};
use object::read::elf::{Dyn, ElfFile64};
use object::{Object, ObjectSection};
use std::path::{Path, PathBuf};

/// The section with the records that the `register_*!` macros write.
const SECTIONS: [&str; 2] = [".qdrop_plugin", "qdrop_plugin"];

/// What is known of a plugin's file without running it.
#[derive(Debug, Clone)]
pub struct PluginFile {
    /// The file.
    pub path: PathBuf,
    /// What it was built with.
    pub stamp: Stamp,
    /// What it registers.
    pub declarations: Vec<Declaration>,
    /// Whether it uses the shared library of the framework instead of its own copy.
    pub shares_framework: bool,
}

/// Whether this program can load a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin can be loaded.
    Fits,
    /// The plugin cannot be loaded, for this reason.
    Refused(String),
}

impl PluginFile {
    /// Reads a plugin's file.
    ///
    /// # Errors
    /// The file cannot be read, is not a shared library, or contains no record of a registration.
    pub fn inspect(path: &Path) -> Result<Self> {
        let error = |message: String| Error::plugin(path, message);
        let bytes = std::fs::read(path).map_err(Error::io("read plugin", path))?;
        let file = object::File::parse(&*bytes).map_err(|e| {
            error(format!("is not a shared library of this system, or was cut off: {e}; {}", rebuild(path)))
        })?;
        let section = SECTIONS.iter().find_map(|name| file.section_by_name(name));
        let Some(section) = section else {
            let message = "is not a qdrop plugin: it holds no stamp; a plugin registers something with `register_*!` \
                           and is built with `qdrop plugin build`";
            return Err(error(message.into()));
        };
        let data = section.data().map_err(|e| error(format!("was cut off: {e}; {}", rebuild(path))))?;
        let records = parse(data);
        let Some((stamp, _)) = records.first().cloned() else {
            return Err(error(format!("its stamp cannot be read; {}", rebuild(path))));
        };
        let mut declarations: Vec<Declaration> = records.into_iter().map(|(_, declaration)| declaration).collect();
        declarations.sort();
        let needed = needed(&bytes).map_err(|e| error(format!("was cut off: {e}; {}", rebuild(path))))?;
        let shares_framework = needed.iter().any(|name| name.contains(LIBRARY));
        Ok(Self { path: path.into(), stamp, declarations, shares_framework })
    }

    /// Whether this program can load the file.
    pub fn verdict(&self) -> Verdict {
        let differences = self.stamp.differences(&Stamp::of_this_build());
        if !differences.is_empty() {
            let rows: Vec<String> = differences.iter().map(ToString::to_string).collect();
            return Verdict::Refused(format!(
                "was built for another qdrop: {}; {}",
                rows.join("; "),
                rebuild(&self.path)
            ));
        }
        if !self.shares_framework {
            return Verdict::Refused(format!(
                "carries its own copy of qdrop-core instead of sharing this program's: its tensors and registrations \
                 would not be the program's; {}",
                rebuild(&self.path)
            ));
        }
        Verdict::Fits
    }
}

/// The shared libraries that the file depends on.
fn needed(bytes: &[u8]) -> object::Result<Vec<String>> {
    let elf = ElfFile64::<object::Endianness>::parse(bytes)?;
    let (endian, sections) = (elf.endian(), elf.elf_section_table());
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, bytes, link)?;
    let needed = entries.iter().filter(|entry| entry.d_tag(endian) == object::elf::DT_NEEDED);
    needed.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
}

/// The advice to rebuild the plugin for this program.
pub(super) fn rebuild(path: &Path) -> String {
    // `qdrop plugin build` writes to target/TRIPLE/release/libNAME.so in the crate's folder.
    let folder = path.ancestors().find(|p| p.join("Cargo.toml").is_file());
    let folder = folder.map_or_else(|| "DIR".into(), |p| p.display().to_string());
    format!("rebuild it with `qdrop plugin build {folder}`")
}
