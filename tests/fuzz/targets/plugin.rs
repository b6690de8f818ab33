//! The stamp of a plugin's file, read without running it.

use super::{a_few_times, folder, write, Target};
use qdrop_core::plugin::{PluginFile, STAMP};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "plugin", seeds, read, allowed: a_few_times };

/// An ELF file of 64 bits with the record of one registration, as small as the format allows: a header, the sections'
/// content, and the table of sections (none, the record, the names of the sections).
fn seeds() -> Vec<Vec<u8>> {
    let record = format!("qdrop-plugin 1\n{STAMP}kind: observer\nname: mine\ncrate: mine\n\0");
    let names = b"\0.qdrop_plugin\0.shstrtab\0";
    let (record_at, names_at) = (64, 64 + record.len());
    let table_at = (names_at + names.len()).next_multiple_of(8);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // A shared library for x86-64, without entry point and program headers.
    for value in [3_u16, 62] {
        file.extend(value.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for value in [0, 0, table_at as u64] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for value in [64_u16, 56, 0, 64, 3, 2] {
        file.extend(value.to_le_bytes());
    }
    file.extend(record.as_bytes());
    file.extend(names);
    file.resize(table_at, 0);
    file.extend([0; 64]);
    // Name, type, flags, address, offset, size, link, info, alignment, size of an entry.
    for (name, kind, offset, size) in [(1_u32, 1_u32, record_at, record.len()), (15, 3, names_at, names.len())] {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for value in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            file.extend(value.to_le_bytes());
        }
    }
    vec![file]
}

thread_local!(static FOLDER: TempDir = folder());

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| match PluginFile::inspect(&write(folder, "plugin.so", bytes)) {
        Ok(file) => {
            file.verdict();
            true
        }
        Err(_) => false,
    })
}
