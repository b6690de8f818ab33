//! QDrop's element-wise mix of quantized and full-precision values (QDrop, section 4.2).

use crate::random::Stream;
use crate::segments::{for_each_piece, PIECE};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Values whose choices are drawn together.
pub const GROUP: usize = 128;

/// Which values keep their quantized value.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// All of them.
    All,
    /// Each with a probability. Values are counted in the order (image, row, column, channel),
    /// whatever their order in memory; every row of an image begins a new group of numbers.
    Random {
        /// Source of the random numbers.
        stream: Stream,
        /// Probability of keeping the quantized value; 16 bits of it count.
        probability: f32,
    },
    /// Those whose byte is not zero.
    Mask(&'a [u8]),
}

impl Keep<'_> {
    /// The choices of up to [`GROUP`] values: group number `group` of the random numbers, or the bytes
    /// from `first` on.
    #[inline(always)]
    pub fn group(&self, group: usize, first: usize, out: &mut [bool]) {
        match self {
            Keep::All => out.fill(true),
            Keep::Random { stream, probability } => {
                let limit = (f64::from(*probability) * 65_536.0).round() as u32;
                let numbers = stream.half_words(group as u32);
                for (o, n) in out.iter_mut().zip(&numbers) {
                    *o = u32::from(*n) < limit;
                }
            }
            Keep::Mask(mask) => {
                for (o, m) in out.iter_mut().zip(&mask[first..]) {
                    *o = *m != 0;
                }
            }
        }
    }
}

/// The choices for images of planes (N, C, H, W), in that order: 1 where the quantized value is kept.
/// `keep` counts in its own order.
pub fn mask_of_planes(keep: Keep<'_>, [images, channels, height, width]: [usize; 4]) -> Vec<u8> {
    let row = width * channels;
    let groups = row.div_ceil(GROUP);
    let mut mask = vec![0; images * channels * height * width];
    mask.par_chunks_mut((channels * height * width).max(1)).enumerate().for_each(|(n, mask)| {
        let mut choices = vec![false; groups * GROUP];
        for y in 0..height {
            let row_number = n * height + y;
            vectorize(
                #[inline(always)]
                || {
                    for (g, part) in choices.chunks_exact_mut(GROUP).enumerate() {
                        keep.group(row_number * groups + g, row_number * row + g * GROUP, part);
                    }
                },
            );
            for c in 0..channels {
                let line = &mut mask[(c * height + y) * width..][..width];
                for (m, k) in line.iter_mut().zip(choices[c..].iter().step_by(channels)) {
                    *m = u8::from(*k);
                }
            }
        }
    });
    mask
}

/// `out = where(mask, quantized, full)`.
pub fn mix(quantized: &[f32], full: &[f32], mask: &[u8], out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        let (q, f, m) = (&quantized[first..][..out.len()], &full[first..][..out.len()], &mask[first..][..out.len()]);
        vectorize(
            #[inline(always)]
            || {
                for i in 0..out.len() {
                    out[i] = if m[i] != 0 { q[i] } else { f[i] };
                }
            },
        );
    });
}

/// Splits the gradient of [`mix`] between its two inputs.
pub fn mix_backward(grad: &[f32], mask: &[u8], quantized: &mut [f32], full: &mut [f32]) {
    let pieces = quantized.par_chunks_mut(PIECE).zip(full.par_chunks_mut(PIECE)).enumerate();
    pieces.for_each(|(i, (dq, df))| {
        let (g, m) = (&grad[i * PIECE..][..dq.len()], &mask[i * PIECE..][..dq.len()]);
        vectorize(
            #[inline(always)]
            || {
                for i in 0..g.len() {
                    dq[i] = if m[i] != 0 { g[i] } else { 0.0 };
                    df[i] = if m[i] != 0 { 0.0 } else { g[i] };
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(probability: f32) -> Keep<'static> {
        Keep::Random { stream: Stream { seed: 3, id: [0, 1, 2] }, probability }
    }

    #[test]
    fn keeps_the_stated_share_and_splits_the_gradient() {
        let dims = [3, 7, 41, 47];
        let mask = mask_of_planes(random(0.25), dims);
        let n = mask.len();
        let (ones, zeros) = (vec![1.0; n], vec![0.0; n]);
        let mut out = vec![9.0; n];
        mix(&ones, &zeros, &mask, &mut out);
        let share = out.iter().sum::<f32>() / n as f32;
        assert!((share - 0.25).abs() < 0.01, "{share}");
        let (mut dq, mut df) = (vec![9.0; n], vec![9.0; n]);
        mix_backward(&vec![2.0; n], &mask, &mut dq, &mut df);
        assert!(out.iter().zip(&dq).all(|(o, d)| 2.0 * o == *d));
        assert!(dq.iter().zip(&df).all(|(a, b)| a + b == 2.0));
        assert!(mask_of_planes(random(1.0), dims).iter().all(|m| *m == 1));
        assert!(mask_of_planes(random(0.0), dims).iter().all(|m| *m == 0));
    }

    #[test]
    fn planes_have_the_choices_of_their_pixels() {
        let (images, channels, height, width) = (2, 5, 3, 29);
        let mask = mask_of_planes(random(0.5), [images, channels, height, width]);
        let groups = (width * channels).div_ceil(GROUP);
        for n in 0..images {
            for c in 0..channels {
                for y in 0..height {
                    for x in 0..width {
                        let at = x * channels + c;
                        let mut part = [false; GROUP];
                        random(0.5).group((n * height + y) * groups + at / GROUP, 0, &mut part);
                        let got = mask[((n * channels + c) * height + y) * width + x] != 0;
                        assert_eq!(got, part[at % GROUP]);
                    }
                }
            }
        }
    }
}
