//! Checkpoints as they lie on the disk.

use super::{folder, repository, write, Target};
use qdrop_core::weights;
use safetensors::{tensor::TensorView, Dtype};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "weights", seeds, read, allowed };

fn seeds() -> Vec<Vec<u8>> {
    let values: Vec<u8> = (0..24_u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes: usize| TensorView::new(dtype, shape.to_vec(), &values[..bytes]).unwrap();
    let tensors = [
        ("layer.weight", view(Dtype::F32, &[2, 3, 1, 4], 96)),
        ("layer.bias", view(Dtype::F16, &[3], 6)),
        ("layer.count", view(Dtype::I64, &[], 8)),
    ];
    let files = [
        "tests/fixtures/legacy.pth",
        "tests/fixtures/parameter.pth",
        "tests/fixtures/zip.pth",
        "tests/fixtures/checkpoints/program.pt2",
        "tests/fixtures/checkpoints/newer.onnx",
    ];
    let index = br#"{"metadata": {"total_size": 96}, "weight_map": {"layer.weight": "part.safetensors"}}"#;
    let mut all: Vec<_> = files.map(repository).into();
    all.push(safetensors::serialize(tensors, None).unwrap());
    all.push(index.to_vec());
    all
}

/// Entries of a zip archive may be compressed.
fn allowed(length: usize) -> usize {
    (1 << 20) + 2 * 1032 * length
}

thread_local!(static FOLDER: TempDir = folder());

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| weights::read(&write(folder, "weights", bytes)).is_ok())
}
