//! Packed files. The checksum at the end is made right, because it would hide the rest of the reader.

use super::allocator;
use super::{folder, registries, run_directory, write, Target};
use qdrop_core::candle_core::Device;
use qdrop_core::pipeline::load_saved;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "packed", seeds, read, allowed };

fn seeds() -> Vec<Vec<u8>> {
    vec![seed()]
}

/// The file of a small network.
pub fn seed() -> Vec<u8> {
    std::fs::read(run_directory::finished().join("run/model.safetensors")).unwrap()
}

/// Descriptions are compressed, and a weight of one bit becomes a number of four bytes.
pub fn allowed(length: usize) -> usize {
    (4 << 20) + 256 * length
}

thread_local!(static FOLDER: TempDir = folder());

fn read(bytes: &[u8]) -> bool {
    loads(bytes.to_vec())
}

/// Replaces the last 32 bytes of a file by the checksum of the others, and loads it.
pub fn loads(mut bytes: Vec<u8>) -> bool {
    bytes.truncate(bytes.len().saturating_sub(32));
    let checksum = Sha256::digest(&bytes);
    bytes.extend(checksum);
    FOLDER.with(|folder| {
        let file = write(folder, "packed", &bytes);
        // What made the seed, and what the target copied, is no reader's.
        allocator::take_largest();
        load_saved(&file, registries(), &Device::Cpu).is_ok()
    })
}
