//! QDrop's element-wise mix of quantized and full-precision values (QDrop, section 4.2), and that of AE-QDrop with random
//! weights.

use crate::random::Stream;
use crate::segments::{for_each_piece, PIECE};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Values whose choices are drawn together.
pub const GROUP: usize = PARTS * LANES;
/// Lanes of a group, whatever the width of vectors.
pub(crate) const LANES: usize = 16;
/// Parts of a group, one bit of a lane each.
const PARTS: usize = 8;
/// Binary digits of a probability that are used.
const DIGITS: u32 = 16;

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
        /// Probability of keeping the quantized value, rounded to 16 binary digits.
        probability: f32,
    },
    /// Those whose byte is not zero.
    Mask(&'a [u8]),
}

/// How quantized and full-precision values become one.
#[derive(Debug, Clone, Copy)]
pub enum Mixing<'a> {
    /// Each value is one of the two.
    Chosen(Keep<'a>),
    /// Each value is `full + weight * (quantized - full)` with a random [weight](weights) of its own (the randomly weighted
    /// activations of AE-QDrop, Electronics 2024, 13, 644). Values are counted as by [`Keep::Random`].
    Weighted(Stream),
}

/// The choices of one group, in the order that vector instructions need: bit `part` of lane `l` belongs to value
/// `16 * part + l`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices([u8; LANES]);

impl Choices {
    /// The same as the lanes of a vector.
    #[inline(always)]
    pub(crate) fn lanes(self) -> [u32; LANES] {
        let mut lanes = [0; LANES];
        for (lane, bits) in lanes.iter_mut().zip(self.0) {
            *lane = u32::from(bits);
        }
        lanes
    }

    /// Whether value `index` keeps its quantized value.
    pub fn keeps(self, index: usize) -> bool {
        self.0[index % LANES] >> (index / LANES) & 1 != 0
    }
}

impl Keep<'_> {
    /// The choices of up to [`GROUP`] values: group number `group` of the random numbers, or `count` bytes
    /// from `first` on.
    #[inline(always)]
    pub fn group(&self, group: usize, first: usize, count: usize) -> Choices {
        match self {
            Keep::All => Choices([0xFF; LANES]),
            Keep::Random { stream, probability } => Choices(chosen(stream, *probability, group)),
            Keep::Mask(mask) => {
                let mut choices = [0; LANES];
                for (i, m) in mask[first..first + count].iter().enumerate() {
                    choices[i % LANES] |= u8::from(*m != 0) << (i / LANES);
                }
                Choices(choices)
            }
        }
    }
}

/// Random bits, each set with the given probability, from as few uniform ones as the probability has binary
/// digits: 1/2 takes one for each choice.
///
/// If one bit is uniform and another is set with probability q, their AND is set with probability q/2 and their OR
/// with (1 + q)/2. So AND puts the binary digit 0 in front of the digits of q, and OR puts the digit 1 there.
#[inline(always)]
fn chosen(stream: &Stream, probability: f32, group: usize) -> [u8; LANES] {
    let number = (f64::from(probability) * f64::from(1 << DIGITS)).round() as u32;
    if number >= 1 << DIGITS {
        return [0xFF; LANES];
    }
    let mut bits = [0; 4];
    for digit in number.trailing_zeros().min(DIGITS)..DIGITS {
        let uniform = stream.block((group as u32).wrapping_mul(DIGITS).wrapping_add(digit));
        for (bits, uniform) in bits.iter_mut().zip(uniform) {
            *bits = if number >> digit & 1 != 0 { *bits | uniform } else { *bits & uniform };
        }
    }
    let mut choices = [0; LANES];
    for (four, bits) in choices.chunks_exact_mut(4).zip(bits) {
        four.copy_from_slice(&bits.to_le_bytes());
    }
    choices
}

/// The choices for images of planes (N, C, H, W), in that order: 1 where the quantized value is kept.
/// `keep` counts in its own order.
pub fn mask_of_planes(keep: Keep<'_>, [images, channels, height, width]: [usize; 4]) -> Vec<u8> {
    let row = width * channels;
    let groups = row.div_ceil(GROUP);
    let mut mask = vec![0; images * channels * height * width];
    mask.par_chunks_mut((channels * height * width).max(1)).enumerate().for_each(|(n, mask)| {
        let mut choices = vec![Choices::default(); groups];
        for y in 0..height {
            let row_number = n * height + y;
            for (g, choices) in choices.iter_mut().enumerate() {
                let count = GROUP.min(row - g * GROUP);
                *choices = keep.group(row_number * groups + g, row_number * row + g * GROUP, count);
            }
            for c in 0..channels {
                let line = &mut mask[(c * height + y) * width..][..width];
                for (x, m) in line.iter_mut().enumerate() {
                    let at = x * channels + c;
                    *m = u8::from(choices[at / GROUP].keeps(at % GROUP));
                }
            }
        }
    });
    mask
}

/// The weights of the quantized values of group number `group` of the random numbers: uniform in [0, 1) with 24 binary digits.
#[inline(always)]
pub fn weights(stream: &Stream, group: usize) -> [f32; GROUP] {
    let mut weights = [0.0; GROUP];
    for (i, four) in weights.chunks_exact_mut(4).enumerate() {
        let numbers = stream.block((group as u32).wrapping_mul(GROUP as u32 / 4).wrapping_add(i as u32));
        for (weight, number) in four.iter_mut().zip(numbers) {
            *weight = (number >> 8) as f32 / (1 << 24) as f32;
        }
    }
    weights
}

/// The [`weights`] of quantized values for images of planes (N, C, H, W), in that order.
pub fn weights_of_planes(stream: Stream, [images, channels, height, width]: [usize; 4]) -> Vec<f32> {
    let groups = (width * channels).div_ceil(GROUP);
    let mut planes = vec![0.0; images * channels * height * width];
    planes.par_chunks_mut((channels * height * width).max(1)).enumerate().for_each(|(n, planes)| {
        for y in 0..height {
            for group in 0..groups {
                let weights = vectorize(
                    #[inline(always)]
                    || weights(&stream, (n * height + y) * groups + group),
                );
                for (at, weight) in (group * GROUP..width * channels).zip(weights) {
                    planes[(at % channels * height + y) * width + at / channels] = weight;
                }
            }
        }
    });
    planes
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
        for probability in [0.5, 0.3, 0.625, 0.99, 1.0 / 256.0] {
            let mask = mask_of_planes(random(probability), dims);
            let share = mask.iter().map(|m| f32::from(*m)).sum::<f32>() / mask.len() as f32;
            // Four standard deviations.
            let bound = 4.0 * (probability * (1.0 - probability) / mask.len() as f32).sqrt();
            assert!((share - probability).abs() < bound, "{share} of {probability}");
        }
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
    fn weights_are_uniform_and_those_of_their_pixels() {
        let (images, channels, height, width) = (2, 5, 3, 29);
        let stream = Stream { seed: 3, id: [0, 1, 2] };
        let weights = weights_of_planes(stream, [images, channels, height, width]);
        let groups = (width * channels).div_ceil(GROUP);
        for (i, weight) in weights.iter().enumerate() {
            let (n, c, y, x) =
                (i / (channels * height * width), i / (height * width) % channels, i / width % height, i % width);
            let number = stream.u32((n * height + y) * groups * GROUP + x * channels + c);
            assert_eq!(f64::from(*weight), f64::from(number >> 8) / f64::from(1 << 24));
        }
        let many = weights_of_planes(stream, [4, 16, 40, 40]);
        let mean = |f: &dyn Fn(f64) -> f64| many.iter().map(|w| f(f64::from(*w))).sum::<f64>() / many.len() as f64;
        assert!(many.iter().all(|w| (0.0..1.0).contains(w)));
        // Bounds of five standard deviations.
        assert!((mean(&|w| w) - 0.5).abs() < 5.0 * (1.0_f64 / 12.0 / many.len() as f64).sqrt());
        assert!((mean(&|w| (w - 0.5).powi(2)) - 1.0 / 12.0).abs() < 5.0 * (1.0_f64 / 180.0 / many.len() as f64).sqrt());
    }

    #[test]
    fn a_mask_is_what_it_says() {
        let mask: Vec<u8> = (0..200).map(|i| u8::from(i * i % 7 < 3)).collect();
        for (first, count) in [(0, GROUP), (72, GROUP), (190, 10)] {
            let choices = Keep::Mask(&mask).group(0, first, count);
            assert!((0..count).all(|i| choices.keeps(i) == (mask[first + i] != 0)));
            assert!((count..GROUP).all(|i| !choices.keeps(i)));
        }
        assert!((0..GROUP).all(|i| Keep::All.group(0, 0, 0).keeps(i)));
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
                        let choices = random(0.5).group((n * height + y) * groups + at / GROUP, 0, 0);
                        let got = mask[((n * channels + c) * height + y) * width + x] != 0;
                        assert_eq!(got, choices.keeps(at % GROUP));
                    }
                }
            }
        }
    }
}
