//! The inputs of `golden.py`, made by the same formulas, and what it stored.

use crate::boxes::BBox;
use safetensors::{Dtype, SafeTensors};

static GOLDEN: &[u8] = include_bytes!("golden.safetensors");

/// The bytes of a stored tensor, four by four.
fn words(name: &str, dtype: Dtype) -> Vec<[u8; 4]> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), dtype, "{name}");
    tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
}

/// A stored tensor of numbers.
pub fn golden(name: &str) -> Vec<f32> {
    words(name, Dtype::F32).into_iter().map(f32::from_le_bytes).collect()
}

/// A stored list of places or labels.
pub fn golden_places(name: &str) -> Vec<usize> {
    words(name, Dtype::I32).into_iter().map(|word| i32::from_le_bytes(word) as usize).collect()
}

/// A stored list of boxes.
pub fn golden_boxes(name: &str) -> Vec<BBox> {
    boxes_of(&golden(name))
}

/// Numbers, four by four.
pub fn boxes_of(values: &[f32]) -> Vec<BBox> {
    values.chunks_exact(4).map(|b| b.try_into().unwrap()).collect()
}

/// Numbers in [0, 1).
pub fn unit(seed: u64, count: usize) -> impl Iterator<Item = f64> {
    (1..=count as u64).map(move |i| {
        let z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed << 40);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / 16_777_216.0
    })
}

/// Uniform numbers.
pub fn noise(seed: u64, count: usize, low: f64, high: f64) -> Vec<f32> {
    unit(seed, count).map(|u| (low + (high - low) * u) as f32).collect()
}

/// Logits of which few are large.
pub fn rare(seed: u64, count: usize, low: f64, spread: f64) -> Vec<f32> {
    unit(seed, count).map(|u| (low + 0.4 / (1.0 + spread - u).sqrt()) as f32).collect()
}

/// Deltas of which few are large.
pub fn wild(seed: u64, count: usize) -> Vec<f32> {
    let often = unit(seed + 1, count);
    noise(seed, count, -1.0, 1.0).into_iter().zip(often).map(|(v, u)| if u < 0.98 { v } else { v * 8.0 }).collect()
}

/// Boxes with corners in a square and sides between two sizes.
pub fn random_boxes(seed: u64, count: usize, span: f64, low: f64, high: f64) -> Vec<BBox> {
    let (corners, sizes) = (noise(seed, count * 2, 0.0, span), noise(seed + 1, count * 2, low, high));
    let pairs = corners.chunks_exact(2).zip(sizes.chunks_exact(2));
    pairs.map(|(c, s)| [c[0], c[1], c[0] + s[0], c[1] + s[1]]).collect()
}

/// Scores of which many are equal.
pub fn coarse(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count, 0.0, 32.0).into_iter().map(|v| v.floor() / 32.0).collect()
}

/// Random groups.
pub fn groups(seed: u64, count: usize, groups: usize) -> Vec<usize> {
    noise(seed, count, 0.0, groups as f64).into_iter().map(|v| v as usize).collect()
}

/// The largest distance of two lists, relative to 1 or to the larger magnitude.
pub fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let relative = |(a, b): (&f32, &f32)| (a - b).abs() / a.abs().max(b.abs()).max(1.0);
    got.iter().zip(want).map(relative).fold(0.0, f32::max)
}
