//! AdaRound on packed weights: the soft weight; and in one pass its gradient, the regularizer and the
//! Adam update.

use crate::adam::AdamStep;
use crate::adaround::{rectified_sigmoid, GAMMA, ZETA};
use crate::math::{exp, ln};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rows that are processed by one task.
const ROWS: usize = 64;
/// Numbers that are processed side by side.
const SIDE: usize = 32;

/// Weights as groups of rows of lanes; a lane of a group has one scale. Packed weights have a group for
/// each tile; those of a depthwise convolution are one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneShape {
    /// Rows of a group.
    pub rows: usize,
    /// Lanes of a row.
    pub lanes: usize,
}

/// The grid of each lane. A lane that is not used has the scale 0.
#[derive(Debug, Clone, Copy)]
pub struct LaneGrid<'a> {
    /// Scales, lane by lane of all groups.
    pub scale: &'a [f32],
    /// Zero points.
    pub zero_point: &'a [f32],
    /// Smallest integer.
    pub qmin: f32,
    /// Largest integer.
    pub qmax: f32,
}

impl LaneGrid<'_> {
    /// Scales and zero points of row `row` of all groups' rows.
    #[inline(always)]
    fn of_row(&self, shape: LaneShape, row: usize) -> (&[f32], &[f32]) {
        let at = row / shape.rows * shape.lanes;
        (&self.scale[at..at + shape.lanes], &self.zero_point[at..at + shape.lanes])
    }
}

#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high {
        high
    } else {
        x
    }
}

/// `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`.
pub fn soft_weight(shape: LaneShape, alpha: &[f32], floor: &[f32], grid: LaneGrid<'_>, out: &mut [f32]) {
    let lanes = shape.lanes;
    out.par_chunks_mut(ROWS * lanes).enumerate().for_each(|(i, out)| {
        vectorize(
            #[inline(always)]
            || {
                for (r, out) in out.chunks_exact_mut(lanes).enumerate() {
                    let row = i * ROWS + r;
                    let (s, z) = grid.of_row(shape, row);
                    let (a, f) = (&alpha[row * lanes..][..lanes], &floor[row * lanes..][..lanes]);
                    for l in 0..lanes {
                        let q = clamp(f[l] + rectified_sigmoid(a[l]).2 + z[l], grid.qmin, grid.qmax);
                        out[l] = (q - z[l]) * s[l];
                    }
                }
            },
        );
    });
}

/// The rounding regularizer of one step: `weight * (1 - |2h - 1|^b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularizer {
    /// Its weight, lambda.
    pub weight: f32,
    /// Its sharpness.
    pub b: f32,
}

/// What is learned of one weight, with its optimizer's state.
pub struct Learned<'a> {
    /// The rounding variables.
    pub alpha: &'a mut [f32],
    /// Running mean of gradients.
    pub mean: &'a mut [f32],
    /// Running mean of squared gradients.
    pub square: &'a mut [f32],
}

/// One update of alpha, from the gradient of the soft weight. `sums` has room for one number for each 64
/// rows. Returns the regularizer before the update.
#[allow(clippy::too_many_arguments)]
pub fn learn(
    shape: LaneShape,
    learned: Learned<'_>,
    floor: &[f32],
    grad: &[f32],
    grid: LaneGrid<'_>,
    regularizer: Option<Regularizer>,
    adam: AdamStep,
    sums: &mut [f64],
) -> f64 {
    let lanes = shape.lanes;
    let update = adam.rates();
    let parts = learned.alpha.par_chunks_mut(ROWS * lanes).zip(learned.mean.par_chunks_mut(ROWS * lanes));
    let parts = parts.zip(learned.square.par_chunks_mut(ROWS * lanes)).zip(sums.par_iter_mut());
    parts.enumerate().for_each(|(i, (((alpha, mean), square), sum))| {
        *sum = vectorize(
            #[inline(always)]
            || {
                let mut sum = 0.0;
                let rows =
                    alpha.chunks_exact_mut(lanes).zip(mean.chunks_exact_mut(lanes)).zip(square.chunks_exact_mut(lanes));
                for (r, ((a, m), v)) in rows.enumerate() {
                    let row = i * ROWS + r;
                    let (s, z) = grid.of_row(shape, row);
                    let (f, g) = (&floor[row * lanes..][..lanes], &grad[row * lanes..][..lanes]);
                    // Sums lane by lane: one sum alone would stop the wide instructions.
                    let mut terms = [0.0_f32; SIDE];
                    for at in (0..lanes).step_by(SIDE) {
                        let n = SIDE.min(lanes - at);
                        let (a, m, v) = (&mut a[at..at + n], &mut m[at..at + n], &mut v[at..at + n]);
                        let (s, z, f, g) = (&s[at..at + n], &z[at..at + n], &f[at..at + n], &g[at..at + n]);
                        for l in 0..n {
                            let (da, term) = gradient(a[l], f[l], g[l], s[l], z[l], &grid, regularizer);
                            terms[l] += term;
                            update.apply(&mut a[l], &mut m[l], &mut v[l], da);
                        }
                    }
                    sum += terms.iter().map(|t| f64::from(*t)).sum::<f64>();
                }
                sum
            },
        );
    });
    sums.iter().sum()
}

/// The gradient of one alpha, and its term of the regularizer.
#[inline(always)]
fn gradient(
    alpha: f32,
    floor: f32,
    grad: f32,
    scale: f32,
    zero_point: f32,
    grid: &LaneGrid<'_>,
    regularizer: Option<Regularizer>,
) -> (f32, f32) {
    let (sigmoid, raw, h) = rectified_sigmoid(alpha);
    let q = floor + h + zero_point;
    let held = (q >= grid.qmin) & (q <= grid.qmax);
    let mut dh = if held { grad * scale } else { 0.0 };
    let mut term = 0.0;
    if let Some(Regularizer { weight, b }) = regularizer {
        let used = scale > 0.0;
        let centred = 2.0 * h - 1.0;
        let size = centred.abs();
        let power = exp((b - 1.0) * ln(size));
        let outer = 2.0 * b * weight * power;
        let outer = if centred > 0.0 { -outer } else { outer };
        dh += if (centred == 0.0) | !used { 0.0 } else { outer };
        term = if used { weight * (1.0 - power * size) } else { 0.0 };
    }
    let slope = (ZETA - GAMMA) * sigmoid * (1.0 - sigmoid);
    (if (0.0..=1.0).contains(&raw) { dh * slope } else { 0.0 }, term)
}

/// Numbers that [`learn`] needs room for.
pub fn sums(shape: LaneShape, len: usize) -> usize {
    len.div_ceil(ROWS * shape.lanes)
}
