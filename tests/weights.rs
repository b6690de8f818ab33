//! Checkpoints written by PyTorch 2.15 (`fixtures/*.pth`), zip and legacy.
//!
//! Tensor `a.weight` is `arange(24).reshape(2, 3, 4) / 7` with its first and last axis exchanged.
//! `a.half`, `a.bfloat` and `a.double` have the same values in other data types; `a.view` is the second half.

use crate::support::*;
use qdrop_core::weights::{read, RawDtype};

#[test]
fn both_pytorch_formats_read_the_same() {
    let value = |i: usize| i as f32 / 7.0;
    for file in ["zip.pth", "legacy.pth"] {
        let tensors = read(&fixture("fixtures").join(file)).unwrap();
        assert_eq!(tensors.len(), 6, "{file}");
        let weight = &tensors["a.weight"];
        assert_eq!(weight.shape, [4, 3, 2]);
        let values = weight.to_f32().unwrap();
        for (i, got) in values.iter().enumerate() {
            let (x, y, z) = (i / 6, i / 2 % 3, i % 2);
            assert_eq!(*got, value(z * 12 + y * 4 + x), "{file} {i}");
        }
        assert_eq!(tensors["a.view"].to_f32().unwrap()[0], value(12));
        for (name, tolerance) in [("a.double", 0.0), ("a.half", 1e-3), ("a.bfloat", 1e-2)] {
            let values = tensors[name].to_f32().unwrap();
            assert!(
                values.iter().enumerate().all(|(i, v)| (v - value(i)).abs() <= tolerance * value(i)),
                "{file} {name}"
            );
        }
        assert_eq!(tensors["n.num_batches_tracked"].dtype, RawDtype::Integer(8));
    }
    let tensors = read(&fixture("fixtures/parameter.pth")).unwrap();
    assert_eq!(tensors["p"].to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn truncated_checkpoints_are_refused_wherever_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("w.pth");
    for file in ["zip.pth", "legacy.pth"] {
        let bytes = std::fs::read(fixture("fixtures").join(file)).unwrap();
        for end in (1..bytes.len()).step_by(61) {
            std::fs::write(&target, &bytes[..end]).unwrap();
            let error = read(&target).unwrap_err().to_string();
            assert!(error.contains("w.pth"), "{error}");
        }
    }
}

#[test]
fn damaged_checkpoints_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("w.pth");
    for file in ["zip.pth", "legacy.pth"] {
        let bytes = std::fs::read(fixture("fixtures").join(file)).unwrap();
        for at in (0..bytes.len()).step_by(13) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            std::fs::write(&target, &damaged).unwrap();
            // Damaged values may remain unnoticed, but the program must not panic.
            let _ = read(&target).map(|t| t.values().map(|v| v.to_f32()).collect::<Vec<_>>());
        }
    }
}
