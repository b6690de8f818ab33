//! The pickle within a PyTorch checkpoint: its mutations have a right checksum.

use super::{a_few_times, folder, repository, write, Target};
use qdrop_core::weights;
use std::io::{Cursor, Read, Write};
use tempfile::TempDir;
use zip::{write::SimpleFileOptions, ZipArchive, ZipWriter};

pub const TARGET: Target = Target { name: "pickle", seeds, read, allowed: a_few_times };

fn seeds() -> Vec<Vec<u8>> {
    let names = ["zip", "parameter"];
    names.iter().map(|name| pickle(&repository(&format!("tests/fixtures/{name}.pth")))).collect()
}

/// The pickle of a checkpoint.
fn pickle(archive: &[u8]) -> Vec<u8> {
    let mut archive = ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut names = archive.file_names().map(|name| name.unwrap().to_string());
    let name = names.find(|name| name.ends_with("data.pkl")).unwrap();
    drop(names);
    let mut bytes = Vec::new();
    archive.by_name(&name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

thread_local!(static FOLDER: TempDir = folder());

fn read(bytes: &[u8]) -> bool {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: &str, content: &[u8]| {
        archive.start_file(format!("archive/{name}"), options).unwrap();
        archive.write_all(content).unwrap();
    };
    entry("data.pkl", bytes);
    (0..4).for_each(|i| entry(&format!("data/{i}"), &[i as u8; 256]));
    let archive = archive.finish().unwrap().into_inner();
    FOLDER.with(|folder| weights::read(&write(folder, "weights.pth", &archive)).is_ok())
}
