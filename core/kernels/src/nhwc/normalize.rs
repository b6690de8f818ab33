//! Layer normalization of the channels of each pixel (arXiv 1607.06450, equation 3), and its gradient.

use super::each::{check_pixels, each_row, row_of};
use super::layout::{Read, Write, Written};

/// Partial sums of a pixel's channels: a sum is vectorized along them.
const LANES: usize = 16;

/// The sum over all channels of a function of several values of each.
#[inline(always)]
fn sum<const N: usize>(values: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let parts = values.map(|values| values.as_chunks::<LANES>());
    for i in 0..parts[0].0.len() {
        let chunks = parts.map(|(chunks, _)| &chunks[i]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(chunks.map(|chunk| chunk[lane]));
        }
    }
    for (i, sum) in lanes.iter_mut().enumerate().take(parts[0].1.len()) {
        *sum += term(parts.map(|(_, rest)| rest[i]));
    }
    lanes.iter().sum()
}

/// Mean and reciprocal deviation of a pixel's channels.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> [f32; 2] {
    let count = x.len() as f32;
    let mean = sum([x], |[x]| x) / count;
    let variance = sum([x], |[x]| (x - mean) * (x - mean)) / count;
    [mean, 1.0 / (variance + eps).sqrt()]
}

/// Writes `(x - mean) / sqrt(variance + eps) * factor + offset`, where mean and variance are those of each pixel's channels, and
/// each channel has a factor and an offset.
///
/// # Panics
/// The sizes do not fit each other.
pub fn layer_norm(x: Read<'_>, [factors, offsets]: [&[f32]; 2], eps: f32, out: Written<'_>) {
    check_pixels(x.1, out.1);
    let channels = x.1.channels;
    assert_eq!([out.1.channels, factors.len(), offsets.len()], [channels; 3], "factors");
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            for (out, x) in line.chunks_exact_mut(channels).zip(row_of(x, place).chunks_exact(channels)) {
                let [mean, inverse] = moments(x, eps);
                for (((out, x), factor), offset) in out.iter_mut().zip(x).zip(factors).zip(offsets) {
                    *out = (x - mean) * inverse * factor + offset;
                }
            }
        },
    );
}

/// Writes the gradient of what [`layer_norm`] reads, from that of its value: with `n` the normal value and `d` the gradient times
/// the factor, `(d - mean(d) - n * mean(d * n)) / sqrt(variance + eps)`.
///
/// # Panics
/// The sizes do not fit each other.
pub fn layer_norm_backward(gradient: Read<'_>, x: Read<'_>, factors: &[f32], eps: f32, write: Write, out: Written<'_>) {
    check_pixels(x.1, out.1);
    check_pixels(gradient.1, out.1);
    let channels = x.1.channels;
    assert_eq!([out.1.channels, gradient.1.channels, factors.len()], [channels; 3], "factors");
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            let pixels = row_of(x, place).chunks_exact(channels).zip(row_of(gradient, place).chunks_exact(channels));
            for (out, (x, g)) in line.chunks_exact_mut(channels).zip(pixels) {
                let [mean, inverse] = moments(x, eps);
                let count = channels as f32;
                let first = sum([g, factors], |[g, factor]| g * factor) / count;
                let second = sum([g, factors, x], |[g, factor, x]| g * factor * ((x - mean) * inverse)) / count;
                for (((out, x), g), factor) in out.iter_mut().zip(x).zip(g).zip(factors) {
                    *out = write.over(*out, (g * factor - first - (x - mean) * inverse * second) * inverse);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Buffer, Layout};
    use super::*;
    use crate::testing::uniform;
    use proptest::prelude::*;

    /// The definition, in f64.
    fn normal(x: &[f64], [factors, offsets]: [&[f32]; 2], eps: f64) -> Vec<f64> {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let scaled = x.iter().map(|x| (x - mean) / (variance + eps).sqrt());
        scaled.zip(factors).zip(offsets).map(|((n, f), o)| n * f64::from(*f) + f64::from(*o)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn values_and_gradients_agree_with_the_definition(
            batch in 1_usize..3, height in 1_usize..4, width in 1_usize..4, channels in 2_usize..70,
            borders in prop::array::uniform2(0_usize..3), add in any::<bool>(),
        ) {
            let x = Layout { batch, height, width, channels, border: borders[0] };
            let out = Layout { border: borders[1], ..x };
            let (eps, factors, offsets) = (1e-2, uniform(channels, 0.5..1.5, 1), uniform(channels, -1.0..1.0, 2));
            let random = |layout: Layout, seed| {
                let mut buffer = Buffer::zeros(layout.len());
                buffer.copy_from_slice(&uniform(layout.len(), -1.0..1.0, seed));
                buffer
            };
            let (values, gradient, before) = (random(x, 3), random(out, 4), random(x, 5));
            let (mut got, mut dx) = (random(out, 6), before.clone());
            layer_norm((&values, x), [&factors, &offsets], eps as f32, (&mut got, out));
            let write = if add { Write::Add } else { Write::Replace };
            layer_norm_backward((&gradient, out), (&values, x), &factors, eps as f32, write, (&mut dx, x));
            for i in 0..batch * height * width {
                let (image, row, column) = (i / (height * width), i / width % height, i % width);
                let at = x.offset(image, row) + column * channels;
                let to = out.offset(image, row) + column * channels;
                let pixel: Vec<f64> = values[at..][..channels].iter().map(|v| f64::from(*v)).collect();
                let want = normal(&pixel, [&factors, &offsets], eps);
                for c in 0..channels {
                    prop_assert!((f64::from(got[to + c]) - want[c]).abs() < 1e-5);
                    // The derivative of the sum of values times their gradients, as a difference.
                    let moved = |step: f64| -> f64 {
                        let mut pixel = pixel.clone();
                        pixel[c] += step;
                        let value = normal(&pixel, [&factors, &offsets], eps);
                        value.iter().zip(&gradient[to..]).map(|(v, g)| v * f64::from(*g)).sum()
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let want = if add { f64::from(before[at + c]) + slope } else { slope };
                    prop_assert!((f64::from(dx[at + c]) - want).abs() < 1e-4 * slope.abs().max(1.0), "{} {want}", dx[at + c]);
                }
            }
        }
    }
}
