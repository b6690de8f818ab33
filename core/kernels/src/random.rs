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
/// Counter blocks computed side by side.
pub(crate) const LANES: usize = 16;

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
        f64::from(self.u32(index)) / 4_294_967_296.0
    }

    /// An integer in `0..bound` (bias below `bound / 2^32`).
    pub fn below(&self, index: usize, bound: usize) -> usize {
        ((u64::from(self.u32(index)) * bound as u64) >> 32) as usize
    }

    /// The words of 16 counter blocks, word by word. A group shares no number with another.
    #[inline(always)]
    pub(crate) fn group(&self, group: u32) -> [[u32; LANES]; 4] {
        self.blocks(group.wrapping_mul(LANES as u32))
    }

    /// Fills `out` with the numbers `first..first + out.len()`; `first` is a multiple of 4.
    #[inline(always)]
    pub fn fill(&self, first: usize, out: &mut [u32]) {
        debug_assert_eq!(first % 4, 0);
        for (i, chunk) in out.chunks_mut(4 * LANES).enumerate() {
            let blocks = self.blocks((first / 4 + i * LANES) as u32);
            for (lane, four) in chunk.chunks_mut(4).enumerate() {
                for (o, word) in four.iter_mut().zip(&blocks) {
                    *o = word[lane];
                }
            }
        }
    }

    /// Counter blocks `first..first + LANES` side by side, word by word: [`philox`] on pairs of lanes, which
    /// the processor multiplies without unpacking them.
    #[inline(always)]
    fn blocks(&self, first: u32) -> [[u32; LANES]; 4] {
        const PAIRS: usize = LANES / 2;
        const LOW: u64 = 0xFFFF_FFFF;
        let both = |word: u32| u64::from(word) | u64::from(word) << 32;
        let (mut k0, mut k1) = (self.seed as u32, (self.seed >> 32) as u32);
        let mut c = [[0; PAIRS], [both(self.id[0]); PAIRS], [both(self.id[1]); PAIRS], [both(self.id[2]); PAIRS]];
        for (pair, word) in c[0].iter_mut().enumerate() {
            let block = first.wrapping_add(2 * pair as u32);
            *word = u64::from(block) | u64::from(block.wrapping_add(1)) << 32;
        }
        for _ in 0..ROUNDS {
            let (key0, key1) = (both(k0), both(k1));
            let mut next = [[0; PAIRS]; 4];
            for l in 0..PAIRS {
                let (even0, odd0) = ((c[0][l] & LOW) * 0xD251_1F53, (c[0][l] >> 32) * 0xD251_1F53);
                let (even1, odd1) = ((c[2][l] & LOW) * 0xCD9E_8D57, (c[2][l] >> 32) * 0xCD9E_8D57);
                let (high0, low0) = ((even0 >> 32) | (odd0 & !LOW), (even0 & LOW) | (odd0 << 32));
                let (high1, low1) = ((even1 >> 32) | (odd1 & !LOW), (even1 & LOW) | (odd1 << 32));
                next[0][l] = high1 ^ c[1][l] ^ key0;
                next[1][l] = low1;
                next[2][l] = high0 ^ c[3][l] ^ key1;
                next[3][l] = low0;
            }
            c = next;
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let mut words = [[0; LANES]; 4];
        for (words, pairs) in words.iter_mut().zip(&c) {
            for l in 0..LANES {
                words[l] = (pairs[l / 2] >> (l % 2 * 32)) as u32;
            }
        }
        words
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
    fn fill_equals_single_draws() {
        let stream = Stream { seed: 1005, id: [1, 2, 3] };
        let mut out = [0; 151];
        stream.fill(8, &mut out);
        for (i, v) in out.iter().enumerate() {
            assert_eq!(*v, stream.u32(8 + i));
        }
        let mean = (0..10_000).map(|i| stream.uniform(i)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..1000).all(|i| stream.below(i, 7) < 7));
        let words = stream.group(3);
        for lane in 0..LANES {
            assert_eq!(stream.block(48 + lane as u32), words.map(|w| w[lane]));
        }
    }
}
