//! Random numbers of a reconstruction.

use crate::ops::Keep;
use qdrop_kernels::random::Stream;

/// Purpose of a random number. It is part of the counter, so that no two purposes share random numbers.
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
    /// Choice of the images for the check of the float network.
    Sample = 5,
    /// Order of the samples in an epoch.
    Epoch = 6,
    /// A direction in which weights are moved.
    Direction = 7,
}

/// The random stream for a purpose; `a` and `b` distinguish its uses.
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

/// The source of a reconstructor's random numbers.
pub trait RandomSource: Send + Sync {
    /// Draws `size` indices in `0..samples`, with replacement.
    fn batch(&self, unit: usize, step: usize, size: usize, samples: usize) -> Vec<usize>;

    /// Draws the order of the samples `0..samples` in an epoch.
    fn permutation(&self, unit: usize, epoch: usize, samples: usize) -> Vec<usize>;

    /// Draws which elements keep their quantized value at a site of the unit: site 0 is the unit's input, sites from 1
    /// on are its activation quantizers in the order of execution.
    fn keep(&self, unit: usize, step: usize, site: usize, probability: f32) -> Keep;

    /// Draws with which weights quantized and float values are mixed at a site of the unit; sites as for
    /// [`keep`](Self::keep).
    fn mixed(&self, unit: usize, step: usize, site: usize) -> Keep;
}

/// Counter-based random numbers from a seed.
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

    fn permutation(&self, unit: usize, epoch: usize, samples: usize) -> Vec<usize> {
        permutation(stream(self.seed, Purpose::Epoch, unit as u32, epoch as u32), samples)
    }

    fn keep(&self, unit: usize, step: usize, site: usize, probability: f32) -> Keep {
        Keep::Random { stream: self.at_site(unit, step, site), probability }
    }

    fn mixed(&self, unit: usize, step: usize, site: usize) -> Keep {
        Keep::Mixed { stream: self.at_site(unit, step, site) }
    }
}

impl SeededRandom {
    fn at_site(&self, unit: usize, step: usize, site: usize) -> Stream {
        // No network has as many as 2^16 units, or 2^16 sites in a unit.
        let place = (unit as u32) << 16 | site as u32;
        stream(self.seed, Purpose::Drop, place, step as u32)
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
