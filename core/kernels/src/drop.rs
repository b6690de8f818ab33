//! QDrop's element-wise mix of quantized and full-precision values (QDrop, section 4.2).

use crate::random::Stream;
use crate::segments::{for_each_piece, PIECE};
use crate::simd::vectorize;

/// Which elements keep their quantized value.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// Element `i` is kept when number `i` of the stream, as a real in [0, 1), is below
    /// `probability`.
    Random {
        /// Source of the random numbers.
        stream: Stream,
        /// Probability of keeping the quantized value.
        probability: f32,
    },
    /// Element `i` is kept when byte `i` is not zero.
    Mask(&'a [u8]),
}

impl Keep<'_> {
    /// Calls `body(offset, keep)` for consecutive small blocks of the piece that starts at `first`.
    #[inline(always)]
    fn blocks(&self, first: usize, len: usize, mut body: impl FnMut(usize, &[bool])) {
        const BLOCK: usize = 64;
        let mut bits = [0u32; BLOCK];
        let mut keep = [false; BLOCK];
        let mut at = 0;
        while at < len {
            let n = BLOCK.min(len - at);
            match self {
                Keep::Random { stream, probability } => {
                    stream.fill(first + at, &mut bits[..n]);
                    let limit = (f64::from(*probability) * 4_294_967_296.0) as u64;
                    for (k, b) in keep[..n].iter_mut().zip(&bits[..n]) {
                        *k = u64::from(*b) < limit;
                    }
                }
                Keep::Mask(mask) => {
                    for (k, m) in keep[..n].iter_mut().zip(&mask[first + at..]) {
                        *k = *m != 0;
                    }
                }
            }
            body(at, &keep[..n]);
            at += n;
        }
    }
}

/// `out = where(keep, quantized, full)`.
pub fn mix(quantized: &[f32], full: &[f32], keep: Keep<'_>, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                let (q, f) = (&quantized[first..][..out.len()], &full[first..][..out.len()]);
                keep.blocks(first, out.len(), |at, keep| {
                    let range = at..at + keep.len();
                    let (out, q, f) = (&mut out[range.clone()], &q[range.clone()], &f[range]);
                    for i in 0..keep.len() {
                        out[i] = if keep[i] { q[i] } else { f[i] };
                    }
                });
            },
        );
    });
}

/// Splits the gradient of [`mix`] between its two inputs.
pub fn mix_backward(grad: &[f32], keep: Keep<'_>, quantized: &mut [f32], full: &mut [f32]) {
    use rayon::prelude::*;
    let pieces = quantized.par_chunks_mut(PIECE).zip(full.par_chunks_mut(PIECE)).enumerate();
    pieces.for_each(|(i, (dq, df))| {
        vectorize(
            #[inline(always)]
            || {
                let first = i * PIECE;
                let g = &grad[first..][..dq.len()];
                keep.blocks(first, g.len(), |at, keep| {
                    let range = at..at + keep.len();
                    let (dq, df, g) = (&mut dq[range.clone()], &mut df[range.clone()], &g[range]);
                    for i in 0..keep.len() {
                        dq[i] = if keep[i] { g[i] } else { 0.0 };
                        df[i] = if keep[i] { 0.0 } else { g[i] };
                    }
                });
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_stated_share_and_splits_the_gradient() {
        let n = 40_001;
        let keep = Keep::Random { stream: Stream { seed: 3, id: [0, 1, 2] }, probability: 0.25 };
        let (ones, zeros) = (vec![1.0; n], vec![0.0; n]);
        let mut out = vec![9.0; n];
        mix(&ones, &zeros, keep, &mut out);
        let share = out.iter().sum::<f32>() / n as f32;
        assert!((share - 0.25).abs() < 0.01, "{share}");
        let (mut dq, mut df) = (vec![9.0; n], vec![9.0; n]);
        mix_backward(&vec![2.0; n], keep, &mut dq, &mut df);
        assert!(out.iter().zip(&dq).all(|(o, d)| 2.0 * o == *d));
        assert!(dq.iter().zip(&df).all(|(a, b)| a + b == 2.0));
        let always = Keep::Random { stream: Stream { seed: 3, id: [0; 3] }, probability: 1.0 };
        mix(&ones, &zeros, always, &mut out);
        assert!(out.iter().all(|v| *v == 1.0));
    }
}
