//! Seeded noise for tests and benchmarks.

use crate::nhwc::{Buffer, Layout};
use crate::random::{unit, Stream};
use std::f32::consts::TAU;
use std::ops::Range;

/// `len` numbers that are uniform between the ends of `range`. The same seed gives the same numbers.
pub fn uniform(len: usize, range: Range<f32>, seed: u64) -> Vec<f32> {
    let (start, size) = (f64::from(range.start), f64::from(range.end) - f64::from(range.start));
    by_fours(len, seed, |numbers| numbers.map(|n| (start + size * unit(n)) as f32))
}

/// A batch of channels-last images with values from -1 to 1, also in the border. The same seed gives the same images.
pub fn images(layout: Layout, seed: u64) -> Buffer {
    let mut buffer = Buffer::zeros(layout.len());
    buffer.copy_from_slice(&uniform(layout.len(), -1.0..1.0, seed));
    buffer
}

/// `len` numbers of the normal distribution with mean 0 and standard deviation 1 (Box and Muller, "A Note on the
/// Generation of Random Normal Deviates", 1958). The same seed gives the same numbers.
pub fn normal(len: usize, seed: u64) -> Vec<f32> {
    // Two independent normal numbers of two uniform ones, of which the first is in (0, 1]: its logarithm is finite.
    let pair = |[a, b]: [u32; 2]| {
        let radius = (-2.0 * ((unit(a) + unit(1)) as f32).ln()).sqrt();
        let (sin, cos) = (TAU * unit(b) as f32).sin_cos();
        [radius * cos, radius * sin]
    };
    by_fours(len, seed, |[a, b, c, d]| {
        let [[a, b], [c, d]] = [[a, b], [c, d]].map(pair);
        [a, b, c, d]
    })
}

/// `len` numbers, made of the stream's blocks.
fn by_fours(len: usize, seed: u64, make: impl Fn([u32; 4]) -> [f32; 4]) -> Vec<f32> {
    let stream = Stream { seed, id: [0x7E57; 3] };
    let mut out: Vec<f32> = (0..len.div_ceil(4)).flat_map(|block| make(stream.block(block as u32))).collect();
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance.
    fn moments(values: &[f32]) -> [f64; 2] {
        let mean = |f: &dyn Fn(f64) -> f64| values.iter().map(|v| f(f64::from(*v))).sum::<f64>() / values.len() as f64;
        let first = mean(&|v| v);
        [first, mean(&|v| (v - first).powi(2))]
    }

    #[test]
    fn noise_has_its_distribution_and_depends_on_the_seed_alone() {
        let (uniform_3, normal_3) = (uniform(100_000, -1.0..3.0, 3), normal(100_000, 3));
        assert!(uniform_3.iter().all(|v| (-1.0..=3.0).contains(v)));
        // Bounds of five standard deviations.
        for (values, mean, variance, bounds) in
            [(&uniform_3, 1.0, 16.0 / 12.0, [0.02, 0.02]), (&normal_3, 0.0, 1.0, [0.016, 0.023])]
        {
            let got = moments(values);
            assert!((got[0] - mean).abs() < bounds[0] && (got[1] - variance).abs() < bounds[1], "{got:?}");
        }
        let within = normal_3.iter().filter(|v| v.abs() < 1.0).count() as f64 / 1e5;
        assert!((within - 0.6827).abs() < 0.008, "{within}");
        assert_eq!(uniform(10, -1.0..3.0, 3), uniform_3[..10]);
        assert_eq!(normal(10, 3), normal_3[..10]);
        assert_ne!(uniform(10, -1.0..3.0, 4), uniform_3[..10]);
    }
}
