//! Fake quantization and its straight-through gradients.

use crate::rounding::{clamp, round_half_even};
use crate::segments::{for_each_piece, Channels, PIECE};
use crate::simd::vectorize;
use rayon::prelude::*;

/// The quantization grid of an array: one scale and one zero point for each channel.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// Scale of each channel: the distance between neighbouring values of the grid.
    pub scale: &'a [f32],
    /// Integer that stands for zero, for each channel (an integral value).
    pub zero_point: &'a [f32],
    /// Smallest integer of the grid.
    pub qmin: f32,
    /// Largest integer of the grid.
    pub qmax: f32,
    /// Which elements belong to which channel.
    pub channels: Channels,
}

/// `(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`.
pub fn forward(x: &[f32], grid: Grid<'_>, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (channel, start, end) in grid.channels.runs(first, first + out.len()) {
                    let (s, z) = (grid.scale[channel], grid.zero_point[channel]);
                    let run = &mut out[start - first..end - first];
                    for (o, v) in run.iter_mut().zip(&x[start..end]) {
                        let q = clamp(round_half_even(v / s) + z, grid.qmin, grid.qmax);
                        *o = (q - z) * s;
                    }
                }
            },
        );
    });
}

/// Gradients of [`forward`]: writes the gradient of `x` and returns those of the scale and of the
/// zero point, summed for each channel in f64.
///
/// Rounding passes its gradient straight through; the clamp passes gradient 1 inside and on its
/// bounds and 0 outside (LSQ, arXiv 1902.08153, equation 3; LSQ+, arXiv 2004.09576, equations 4 and 5).
pub fn backward(x: &[f32], grad: &[f32], grid: Grid<'_>, dx: &mut [f32]) -> (Vec<f64>, Vec<f64>) {
    let parts: Vec<Vec<(usize, f64, f64)>> = dx
        .par_chunks_mut(PIECE)
        .enumerate()
        .map(|(i, dx)| {
            let first = i * PIECE;
            vectorize(
                #[inline(always)]
                || {
                    let mut sums = Vec::new();
                    for (channel, start, end) in grid.channels.runs(first, first + dx.len()) {
                        let run = &mut dx[start - first..end - first];
                        let (s, z) = backward_run(&x[start..end], &grad[start..end], &grid, channel, run);
                        sums.push((channel, s, z));
                    }
                    sums
                },
            )
        })
        .collect();
    let (mut ds, mut dz) = (vec![0.0; grid.channels.count], vec![0.0; grid.channels.count]);
    for (channel, s, z) in parts.into_iter().flatten() {
        ds[channel] += s;
        dz[channel] += z;
    }
    (ds, dz)
}

/// The gradients of one fake-quantized value whose own gradient is `g`; `t` is `x / scale`. Whether the gradient
/// passes on to x (the grid holds the rounded value; its bounds count as inside), and what is added to the gradients
/// of scale and zero point (LSQ, arXiv 1902.08153, equation 3; LSQ+, arXiv 2004.09576, equations 4 and 5).
#[inline(always)]
pub(crate) fn lsq_gradient(t: f32, g: f32, scale: f32, zero_point: f32, [qmin, qmax]: [f32; 2]) -> (bool, f32, f32) {
    let rounded = round_half_even(t) + zero_point;
    let clamped = clamp(rounded, qmin, qmax);
    let (inside, steps) = (clamped == rounded, clamped - zero_point);
    let of_scale = g * if inside { steps - t } else { steps };
    (inside, of_scale, if inside { 0.0 } else { -g * scale })
}

/// One run of one channel. Sums are kept in 16 lanes of f32 over short stretches, then in f64.
#[inline(always)]
fn backward_run(x: &[f32], grad: &[f32], grid: &Grid<'_>, channel: usize, dx: &mut [f32]) -> (f64, f64) {
    const LANES: usize = 16;
    const STRETCH: usize = 1024;
    let (s, z) = (grid.scale[channel], grid.zero_point[channel]);
    let element = |v: f32, g: f32| {
        let (inside, of_scale, of_zero_point) = lsq_gradient(v / s, g, s, z, [grid.qmin, grid.qmax]);
        (if inside { g } else { 0.0 }, of_scale, of_zero_point)
    };
    let (mut ds, mut dz) = (0.0_f64, 0.0_f64);
    for ((x, g), dx) in x.chunks(STRETCH).zip(grad.chunks(STRETCH)).zip(dx.chunks_mut(STRETCH)) {
        let (mut lane_s, mut lane_z) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let whole = x.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let (x, g, dx) = (&x[i..i + LANES], &g[i..i + LANES], &mut dx[i..i + LANES]);
            for l in 0..LANES {
                let (d, a, b) = element(x[l], g[l]);
                dx[l] = d;
                lane_s[l] += a;
                lane_z[l] += b;
            }
        }
        for i in whole..x.len() {
            let (d, a, b) = element(x[i], g[i]);
            dx[i] = d;
            ds += f64::from(a);
            dz += f64::from(b);
        }
        ds += lane_s.iter().map(|v| f64::from(*v)).sum::<f64>();
        dz += lane_z.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    (ds, dz)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The fast sums equal the definition written element by element in f64.
        #[test]
        fn backward_agrees_with_the_definition(
            x in prop::collection::vec(-3.0_f32..3.0, 1..200),
            channels in 1_usize..4,
            scale in 0.05_f32..0.5,
        ) {
            let inner = x.len();
            let x: Vec<f32> = x.iter().cycle().take(inner * channels).copied().collect();
            let scale: Vec<f32> = (0..channels).map(|c| scale * (c + 1) as f32).collect();
            let zero_point: Vec<f32> = (0..channels).map(|c| c as f32 * 3.0).collect();
            let grid = Grid { scale: &scale, zero_point: &zero_point, qmin: 0.0, qmax: 15.0,
                channels: Channels { count: channels, inner } };
            let grad: Vec<f32> = (0..x.len()).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut dx = vec![0.0; x.len()];
            let (ds, dz) = backward(&x, &grad, grid, &mut dx);
            for c in 0..channels {
                let (mut s, mut z) = (0.0_f64, 0.0_f64);
                for i in c * inner..(c + 1) * inner {
                    let t = x[i] / scale[c];
                    let r = t.round_ties_even() + zero_point[c];
                    let g = f64::from(grad[i]);
                    if r < 0.0 { s += g * f64::from(-zero_point[c]); z -= g * f64::from(scale[c]); }
                    else if r > 15.0 { s += g * f64::from(15.0 - zero_point[c]); z -= g * f64::from(scale[c]); }
                    else { s += g * f64::from(r - zero_point[c] - t); }
                    prop_assert_eq!(dx[i], if (0.0..=15.0).contains(&r) { grad[i] } else { 0.0 });
                }
                prop_assert!((ds[c] - s).abs() < 1e-4, "{} {}", ds[c], s);
                prop_assert!((dz[c] - z).abs() < 1e-4, "{} {}", dz[c], z);
            }
        }
    }
}
