//! AdaRound on packed weights: the soft weight; and in one pass the gradient of alpha, the regularizer, the
//! Adam update and the next soft weight.

use crate::adam::{AdamStep, Rates};
use crate::adaround::{rectified_sigmoid, GAMMA, ZETA};
use crate::math::power;
use crate::rounding::clamp;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rows that are processed by one task.
const ROWS: usize = 64;
/// Numbers that are processed side by side.
const SIDE: usize = 16;

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

/// `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`.
pub fn soft_weight(shape: LaneShape, alpha: &[f32], floor: &[f32], grid: LaneGrid<'_>, out: &mut [f32]) {
    let lanes = shape.lanes;
    out.par_chunks_mut(ROWS * lanes).enumerate().for_each(|(i, out)| {
        vectorize(
            #[inline(always)]
            || soft_rows(shape, i * ROWS, alpha, floor, grid, out),
        );
    });
}

#[inline(always)]
fn soft_rows(shape: LaneShape, first: usize, alpha: &[f32], floor: &[f32], grid: LaneGrid<'_>, out: &mut [f32]) {
    let lanes = shape.lanes;
    for (r, out) in out.chunks_exact_mut(lanes).enumerate() {
        let (row, values) = (first + r, (first + r) * lanes);
        let (s, z) = grid.of_row(shape, row);
        let (a, f) = (&alpha[values..][..lanes], &floor[values..][..lanes]);
        for at in (0..lanes).step_by(SIDE) {
            let n = SIDE.min(lanes - at);
            let [a, f, s, z] = [a, f, s, z].map(
                #[inline(always)]
                |v| side(&v[at..at + n]),
            );
            put(&mut out[at..at + n], soft(&a, &f, &s, &z, &grid));
        }
    }
}

#[inline(always)]
fn soft(
    alpha: &[f32; SIDE],
    floor: &[f32; SIDE],
    scale: &[f32; SIDE],
    zero_point: &[f32; SIDE],
    grid: &LaneGrid<'_>,
) -> [f32; SIDE] {
    let mut weight = [0.0; SIDE];
    for l in 0..SIDE {
        let q = clamp(floor[l] + rectified_sigmoid(alpha[l]).2 + zero_point[l], grid.qmin, grid.qmax);
        weight[l] = (q - zero_point[l]) * scale[l];
    }
    weight
}

/// Up to [`SIDE`] numbers; those that lack are zero, and a scale of 0 makes them count for nothing.
#[inline(always)]
fn side(values: &[f32]) -> [f32; SIDE] {
    match values.try_into() {
        Ok(all) => all,
        Err(_) => {
            let mut all = [0.0; SIDE];
            all[..values.len()].copy_from_slice(values);
            all
        }
    }
}

/// The reverse of [`side`].
#[inline(always)]
fn put(out: &mut [f32], values: [f32; SIDE]) {
    if let Ok(all) = <&mut [f32; SIDE]>::try_from(&mut *out) {
        // Of a length that is known: without a call.
        *all = values;
    } else {
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// The rounding regularizer of one step: `weight * (1 - |2h - 1|^b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularizer {
    /// Its weight, lambda.
    pub weight: f32,
    /// Its sharpness.
    pub b: f32,
}

/// What is learned of one weight, with its optimizer's state, and what becomes of it.
pub struct Learned<'a> {
    /// The rounding variables.
    pub alpha: &'a mut [f32],
    /// Running mean of gradients.
    pub mean: &'a mut [f32],
    /// Running mean of squared gradients.
    pub square: &'a mut [f32],
    /// Takes the soft weight of the updated alpha.
    pub weight: &'a mut [f32],
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
    let update = adam.rates();
    let lanes = shape.lanes;
    let parts = learned.alpha.par_chunks_mut(ROWS * lanes).zip(learned.mean.par_chunks_mut(ROWS * lanes));
    let parts = parts.zip(learned.square.par_chunks_mut(ROWS * lanes).zip(learned.weight.par_chunks_mut(ROWS * lanes)));
    parts.zip(sums.par_iter_mut()).enumerate().for_each(|(i, (((alpha, mean), (square, weight)), sum))| {
        let learned = Learned { alpha, mean, square, weight };
        *sum = vectorize(
            #[inline(always)]
            || match regularizer {
                // Two bodies: whether there is a regularizer leaves the loops.
                Some(_) => learn_rows(shape, i * ROWS, learned, floor, grad, grid, regularizer, update),
                None => learn_rows(shape, i * ROWS, learned, floor, grad, grid, None, update),
            },
        );
    });
    sums.iter().sum()
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn learn_rows(
    shape: LaneShape,
    first: usize,
    learned: Learned<'_>,
    floor: &[f32],
    grad: &[f32],
    grid: LaneGrid<'_>,
    regularizer: Option<Regularizer>,
    update: Rates,
) -> f64 {
    let lanes = shape.lanes;
    let mut sum = 0.0;
    let rows = learned.alpha.chunks_exact_mut(lanes).zip(learned.mean.chunks_exact_mut(lanes));
    let rows = rows.zip(learned.square.chunks_exact_mut(lanes).zip(learned.weight.chunks_exact_mut(lanes)));
    for (r, ((alpha, mean), (square, weight))) in rows.enumerate() {
        let (row, values) = (first + r, (first + r) * lanes);
        let (s, z) = grid.of_row(shape, row);
        let (f, g) = (&floor[values..][..lanes], &grad[values..][..lanes]);
        // Sums lane by lane: one sum alone would stop the wide instructions.
        let mut terms = [0.0_f32; SIDE];
        for at in (0..lanes).step_by(SIDE) {
            let n = SIDE.min(lanes - at);
            let [mut a, mut m, mut v] = [&*alpha, &*mean, &*square].map(
                #[inline(always)]
                |v| side(&v[at..at + n]),
            );
            let [f, g, s, z] = [f, g, s, z].map(
                #[inline(always)]
                |v| side(&v[at..at + n]),
            );
            let (mut gradients, mut row_terms) = ([0.0; SIDE], [0.0; SIDE]);
            for l in 0..SIDE {
                let (da, term) = gradient(a[l], f[l], g[l], s[l], z[l], &grid, regularizer);
                gradients[l] = da;
                row_terms[l] = term;
            }
            for l in 0..SIDE {
                terms[l] += row_terms[l];
            }
            for l in 0..SIDE {
                update.apply(&mut a[l], &mut m[l], &mut v[l], gradients[l]);
            }
            put(&mut alpha[at..at + n], a);
            put(&mut mean[at..at + n], m);
            put(&mut square[at..at + n], v);
            put(&mut weight[at..at + n], soft(&a, &f, &s, &z, &grid));
        }
        sum += terms.iter().map(|t| f64::from(*t)).sum::<f64>();
    }
    sum
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
        let sharp = power(size, b - 1.0);
        let outer = 2.0 * b * weight * sharp;
        let outer = if centred > 0.0 { -outer } else { outer };
        dh += if (centred == 0.0) | !used { 0.0 } else { outer };
        term = if used { weight * (1.0 - sharp * size) } else { 0.0 };
    }
    let slope = (ZETA - GAMMA) * sigmoid * (1.0 - sigmoid);
    (if (0.0..=1.0).contains(&raw) { dh * slope } else { 0.0 }, term)
}

/// Numbers that [`learn`] needs room for.
pub fn sums(shape: LaneShape, len: usize) -> usize {
    len.div_ceil(ROWS * shape.lanes)
}
