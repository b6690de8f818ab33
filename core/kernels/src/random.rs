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
const LANES: usize = 16;

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

    /// 128 numbers of 16 bits: the lower, then the upper halves of the words of 16 counter blocks. A
    /// group shares no number with another.
    #[inline(always)]
    pub fn half_words(&self, group: u32) -> [u16; 8 * LANES] {
        let words = self.blocks(group.wrapping_mul(LANES as u32));
        let mut out = [0; 8 * LANES];
        let (low, high) = out.split_at_mut(4 * LANES);
        for (w, word) in words.iter().enumerate() {
            for (lane, value) in word.iter().enumerate() {
                low[w * LANES + lane] = *value as u16;
                high[w * LANES + lane] = (*value >> 16) as u16;
            }
        }
        out
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

    /// Counter blocks `first..first + LANES` side by side, word by word: [`philox`] in a form that
    /// the compiler vectorizes.
    #[inline(always)]
    fn blocks(&self, first: u32) -> [[u32; LANES]; 4] {
        let (mut k0, mut k1) = (self.seed as u32, (self.seed >> 32) as u32);
        let mut c = [[0; LANES], [self.id[0]; LANES], [self.id[1]; LANES], [self.id[2]; LANES]];
        for (lane, word) in c[0].iter_mut().enumerate() {
            *word = first.wrapping_add(lane as u32);
        }
        for _ in 0..ROUNDS {
            let mut next = [[0; LANES]; 4];
            for l in 0..LANES {
                let p0 = u64::from(c[0][l]) * 0xD251_1F53;
                let p1 = u64::from(c[2][l]) * 0xCD9E_8D57;
                next[0][l] = (p1 >> 32) as u32 ^ c[1][l] ^ k0;
                next[1][l] = p1 as u32;
                next[2][l] = (p0 >> 32) as u32 ^ c[3][l] ^ k1;
                next[3][l] = p0 as u32;
            }
            c = next;
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        c
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
        let halves = stream.half_words(3);
        for block in 0..16 {
            for (w, word) in stream.block(48 + block as u32).into_iter().enumerate() {
                let pair = (halves[w * 16 + block], halves[64 + w * 16 + block]);
                assert_eq!(pair, (word as u16, (word >> 16) as u16));
            }
        }
    }
}
