//! Random draws of a reconstruction.

use crate::ops::Keep;
use qdrop_kernels::random::Stream;

/// What a random number is for; part of the counter, so that no two uses share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Choice of calibration images.
    Calibration = 1,
    /// Augmentation of one image.
    Augmentation = 2,
    /// Choice of a batch.
    Batch = 3,
    /// Drop at a site.
    Drop = 4,
    /// Choice of images for a check.
    Sample = 5,
}

/// The stream of random numbers for a purpose, `a` and `b` telling uses apart.
pub fn stream(seed: u64, purpose: Purpose, a: u32, b: u32) -> Stream {
    Stream { seed, id: [purpose as u32, a, b] }
}

/// A permutation of `0..len` (Fisher-Yates).
pub fn permutation(stream: Stream, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, stream.below(i, i + 1));
    }
    order
}

/// Where a reconstructor gets its random draws from.
pub trait RandomSource: Send + Sync {
    /// `size` indices in `0..samples`, with replacement.
    fn batch(&self, unit: usize, step: usize, size: usize, samples: usize) -> Vec<usize>;

    /// Which elements keep their quantized value at a site of the unit: 0 is the unit's input,
    /// then its activation quantizers in the order of execution.
    fn keep(&self, unit: usize, step: usize, site: usize, probability: f32) -> Keep;
}

/// Counter-based draws from a seed.
#[derive(Debug, Clone, Copy)]
pub struct SeededRandom {
    /// Seed of the run.
    pub seed: u64,
}

impl RandomSource for SeededRandom {
    fn batch(&self, unit: usize, step: usize, size: usize, samples: usize) -> Vec<usize> {
        let stream = stream(self.seed, Purpose::Batch, unit as u32, step as u32);
        (0..size).map(|i| stream.below(i, samples)).collect()
    }

    fn keep(&self, unit: usize, step: usize, site: usize, probability: f32) -> Keep {
        // 2^16 sites of a unit and 2^16 units are more than any network has.
        let place = (unit as u32) << 16 | site as u32;
        Keep::Random { stream: stream(self.seed, Purpose::Drop, place, step as u32), probability }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut p = permutation(stream(7, Purpose::Calibration, 0, 0), 100);
        assert_ne!(p, (0..100).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..100).collect::<Vec<_>>());
    }
}
