//! Counter-based random numbers: Philox 4x32-10.
//!
//! Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A number is
//! a pure function of its key and counter, so it does not depend on threads, on devices or on what
//! was drawn before, and a resumed run draws what an uninterrupted one would have drawn.

/// One stream of random numbers: the key and the upper three counter words of Philox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Philox key: the seed of the run.
    pub seed: u64,
    /// Counter words 1 to 3: what the numbers are for (a site, a step, a unit).
    pub id: [u32; 3],
}

const ROUNDS: usize = 10;

#[inline(always)]
fn philox(key: u64, mut c: [u32; 4]) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..ROUNDS {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// A random number as a real in [0, 1), exactly.
pub(crate) fn unit(number: u32) -> f64 {
    f64::from(number) / 4_294_967_296.0
}

impl Stream {
    /// The four numbers of counter block `block`.
    #[inline(always)]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox(self.seed, [block, self.id[0], self.id[1], self.id[2]])
    }

    /// Number `index` of the stream, uniform over all `u32`.
    pub fn u32(&self, index: usize) -> u32 {
        self.block((index / 4) as u32)[index % 4]
    }

    /// Number `index` of the stream as a real in [0, 1).
    pub fn uniform(&self, index: usize) -> f64 {
        unit(self.u32(index))
    }

    /// An integer in `0..bound` (bias below `bound / 2^32`).
    pub fn below(&self, index: usize, bound: usize) -> usize {
        ((u64::from(self.u32(index)) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_philox_authors() {
        // kat_vectors of Random123, "philox4x32 10".
        assert_eq!(philox(0, [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox(0x299f31d0_a4093822, [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn draws_are_uniform() {
        let stream = Stream { seed: 1005, id: [1, 2, 3] };
        assert_eq!(stream.u32(9), stream.block(2)[1]);
        let mean = (0..10_000).map(|i| stream.uniform(i)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..1000).all(|i| stream.below(i, 7) < 7));
    }
}
