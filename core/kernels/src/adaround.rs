//! AdaRound's soft rounding (arXiv 2004.10568, equations 22 to 24).

use crate::fake_quantize::Grid;
use crate::math::{power, sigmoid};
use crate::rounding::clamp;
use crate::segments::{for_each_piece, map_pieces};
use crate::simd::vectorize;

/// Lower end of the stretched sigmoid.
pub const GAMMA: f32 = -0.1;
/// Upper end of the stretched sigmoid.
pub const ZETA: f32 = 1.1;

/// The alpha at which the soft rounding returns `rest`, the fractional part of `w / scale`.
#[inline(always)]
pub fn alpha_of(rest: f32) -> f32 {
    -((ZETA - GAMMA) / (rest - GAMMA) - 1.0).ln()
}

/// The rectified sigmoid before and after its clamp to [0, 1].
#[inline(always)]
pub(crate) fn rectified_sigmoid(alpha: f32) -> (f32, f32, f32) {
    let s = sigmoid(alpha);
    let raw = s * (ZETA - GAMMA) + GAMMA;
    (s, raw, clamp(raw, 0.0, 1.0))
}

/// `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`, with `floor = floor(w / scale)`.
#[inline(always)]
pub(crate) fn soft_value(alpha: f32, floor: f32, scale: f32, zero_point: f32, [qmin, qmax]: [f32; 2]) -> f32 {
    (clamp(floor + rectified_sigmoid(alpha).2 + zero_point, qmin, qmax) - zero_point) * scale
}

/// [`soft_value`] with a hard rounding: up where `h(alpha)` is at least 0.5, down elsewhere.
#[inline(always)]
pub(crate) fn hard_value(alpha: f32, floor: f32, scale: f32, zero_point: f32, [qmin, qmax]: [f32; 2]) -> f32 {
    let up = if alpha >= 0.0 { 1.0 } else { 0.0 };
    (clamp(floor + up + zero_point, qmin, qmax) - zero_point) * scale
}

/// `h(alpha)`, the share of the way from rounding down to rounding up.
pub fn soft_rounding(alpha: &[f32], out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (o, a) in out.iter_mut().zip(&alpha[first..]) {
                    *o = rectified_sigmoid(*a).2;
                }
            },
        );
    });
}

/// `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`, with
/// `floor = floor(w / scale)`.
pub fn forward(alpha: &[f32], floor: &[f32], grid: Grid<'_>, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (channel, start, end) in grid.channels.runs(first, first + out.len()) {
                    let (s, z) = (grid.scale[channel], grid.zero_point[channel]);
                    let run = &mut out[start - first..end - first];
                    for ((o, a), f) in run.iter_mut().zip(&alpha[start..end]).zip(&floor[start..end]) {
                        *o = soft_value(*a, *f, s, z, [grid.qmin, grid.qmax]);
                    }
                }
            },
        );
    });
}

/// Gradient of [`forward`] with respect to alpha; clamps pass gradient 1 on their bounds.
pub fn backward(alpha: &[f32], floor: &[f32], grad: &[f32], grid: Grid<'_>, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (channel, start, end) in grid.channels.runs(first, first + out.len()) {
                    let (s, z) = (grid.scale[channel], grid.zero_point[channel]);
                    let run = &mut out[start - first..end - first];
                    for (i, o) in run.iter_mut().enumerate() {
                        let (sig, raw, h) = rectified_sigmoid(alpha[start + i]);
                        let q = floor[start + i] + h + z;
                        let pass = (q >= grid.qmin) & (q <= grid.qmax) & (0.0..=1.0).contains(&raw);
                        let slope = (ZETA - GAMMA) * sig * (1.0 - sig);
                        *o = if pass { grad[start + i] * s * slope } else { 0.0 };
                    }
                }
            },
        );
    });
}

/// The number of roundings that are neither up nor down yet: `h(alpha)` lies between 0.05 and 0.95.
pub fn unsettled(alpha: &[f32]) -> usize {
    map_pieces(alpha.len(), |start, end| {
        alpha[start..end].iter().filter(|a| (0.05..=0.95).contains(&rectified_sigmoid(**a).2)).count()
    })
    .into_iter()
    .sum()
}

/// The rounding regularizer: the sum over all elements of `1 - |2h - 1|^beta`, in f64.
pub fn regularizer(alpha: &[f32], beta: f32) -> f64 {
    map_pieces(alpha.len(), |start, end| {
        vectorize(
            #[inline(always)]
            || {
                let mut terms = [0.0_f32; 256];
                let mut sum = 0.0_f64;
                for chunk in alpha[start..end].chunks(terms.len()) {
                    for (t, a) in terms.iter_mut().zip(chunk) {
                        let u = (2.0 * rectified_sigmoid(*a).2 - 1.0).abs();
                        *t = 1.0 - power(u, beta);
                    }
                    sum += terms[..chunk.len()].iter().map(|t| f64::from(*t)).sum::<f64>();
                }
                sum
            },
        )
    })
    .into_iter()
    .sum()
}

/// Gradient of [`regularizer`] with respect to alpha, times `factor`.
pub fn regularizer_backward(alpha: &[f32], beta: f32, factor: f32, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (o, a) in out.iter_mut().zip(&alpha[first..]) {
                    let (sig, raw, h) = rectified_sigmoid(*a);
                    let centred = 2.0 * h - 1.0;
                    let steep = 2.0 * beta * power(centred.abs(), beta - 1.0);
                    let outer = if centred > 0.0 { -steep } else { steep };
                    let outer = if centred == 0.0 { 0.0 } else { outer };
                    let slope = (ZETA - GAMMA) * sig * (1.0 - sig);
                    let pass = (0.0..=1.0).contains(&raw);
                    *o = if pass { factor * outer * slope } else { 0.0 };
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::Channels;

    #[test]
    fn alpha_of_inverts_the_soft_rounding() {
        let rest: Vec<f32> = (0..100).map(|i| i as f32 / 100.0).collect();
        let alpha: Vec<f32> = rest.iter().map(|r| alpha_of(*r)).collect();
        let mut h = vec![0.0; rest.len()];
        soft_rounding(&alpha, &mut h);
        for (h, r) in h.iter().zip(&rest) {
            assert!((h - r).abs() < 1e-6, "{h} {r}");
        }
    }

    #[test]
    fn hard_roundings_are_up_or_down() {
        let alpha = [-9.0, -2.3, -0.1, 0.0, 0.1, 2.3, 9.0];
        let mut soft = [0.0; 7];
        soft_rounding(&alpha, &mut soft);
        let hard = alpha.map(|a| hard_value(a, 1.0, 1.0, 2.0, [0.0, 9.0]) - 1.0);
        assert_eq!(hard, soft.map(|h| if h >= 0.5 { 1.0 } else { 0.0 }));
        // Of -2.3 and 2.3, h is 0.009 and 0.991.
        assert_eq!(unsettled(&alpha), 3);
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let alpha: Vec<f32> = (0..41).map(|i| (i as f32 - 20.0) * 0.1 + 0.013).collect();
        let floor = vec![1.0; alpha.len()];
        let grid =
            Grid { scale: &[0.3], zero_point: &[2.0], qmin: 0.0, qmax: 15.0, channels: Channels::whole(alpha.len()) };
        let eval = |a: f32| {
            let s = 1.0 / (1.0 + (-f64::from(a)).exp());
            (s * 1.2 - 0.1).clamp(0.0, 1.0)
        };
        let mut grad = vec![0.0; alpha.len()];
        backward(&alpha, &floor, &vec![1.0; alpha.len()], grid, &mut grad);
        let mut reg = vec![0.0; alpha.len()];
        regularizer_backward(&alpha, 4.0, 0.5, &mut reg);
        for (i, a) in alpha.iter().enumerate() {
            let d = (eval(a + 1e-3) - eval(a - 1e-3)) / ((a + 1e-3) - (a - 1e-3)) as f64;
            assert!((f64::from(grad[i]) - 0.3 * d).abs() < 1e-4);
            let r = |a: f32| 0.5 * (1.0 - (2.0 * eval(a) - 1.0).abs().powi(4));
            let d = (r(a + 1e-3) - r(a - 1e-3)) / ((a + 1e-3) - (a - 1e-3)) as f64;
            assert!((f64::from(reg[i]) - d).abs() < 1e-4, "{} {d}", reg[i]);
        }
    }
}
