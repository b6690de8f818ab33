//! AdaRound on packed weights: the soft weight; the gradient of its scales, where they are learned too; and in one
//! pass the gradient of alpha, the regularizer, the Adam update and the next soft weight.

use crate::adam::{AdamStep, Rates};
use crate::adaround::{hard_value, rectified_sigmoid, soft_value, GAMMA, ZETA};
use crate::math::power;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rows that one task processes: their alphas, moments, gradients and weights fit the L1 cache.
const ROWS: usize = 32;
/// Elements that are processed side by side, in vectors.
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

/// The quantization grid of each lane. An unused lane has the scale 0.
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
    /// Whether weights are rounded up where `h(alpha)` is at least 0.5, and down elsewhere, instead of softly.
    pub hard: bool,
}

impl LaneGrid<'_> {
    /// Scales and zero points of row `row` of all groups' rows.
    #[inline(always)]
    fn of_row(&self, shape: LaneShape, row: usize) -> (&[f32], &[f32]) {
        let at = row / shape.rows * shape.lanes;
        (&self.scale[at..at + shape.lanes], &self.zero_point[at..at + shape.lanes])
    }
}

/// `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`; on a hard grid, with 0 or 1 in place of `h`.
pub fn soft_weight(shape: LaneShape, alpha: &[f32], floor: &[f32], grid: LaneGrid<'_>, out: &mut [f32]) {
    assert_eq!([alpha.len(), floor.len()], [out.len(); 2], "weights");
    let piece = ROWS * shape.lanes;
    let pieces = out.par_chunks_mut(piece).zip(alpha.par_chunks(piece)).zip(floor.par_chunks(piece));
    pieces.enumerate().for_each(|(i, ((out, alpha), floor))| {
        vectorize(
            #[inline(always)]
            || soft_rows(shape, i * ROWS, alpha, floor, grid, out),
        );
    });
}

/// As [`soft_weight`], for the rows from `first` on.
#[inline(always)]
fn soft_rows(shape: LaneShape, first: usize, alpha: &[f32], floor: &[f32], grid: LaneGrid<'_>, out: &mut [f32]) {
    let lanes = shape.lanes;
    let rows = out.chunks_exact_mut(lanes).zip(alpha.chunks_exact(lanes)).zip(floor.chunks_exact(lanes));
    for (r, ((out, alpha), floor)) in rows.enumerate() {
        let (scale, zero_point) = grid.of_row(shape, first + r);
        let (out, alpha, floor) = (&mut out[..lanes], &alpha[..lanes], &floor[..lanes]);
        // Two loops, so that they do not branch.
        if grid.hard {
            for l in 0..lanes {
                out[l] = hard_value(alpha[l], floor[l], scale[l], zero_point[l], [grid.qmin, grid.qmax]);
            }
        } else {
            for l in 0..lanes {
                out[l] = soft_value(alpha[l], floor[l], scale[l], zero_point[l], [grid.qmin, grid.qmax]);
            }
        }
    }
}

/// Writes the gradients of learned scales, one for each lane of each group, given the gradient `grad` of the
/// [soft weight](soft_weight): the sum of `grad * (clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point)`
/// over the rows of the lane. This is the derivative of the soft weight with respect to its scale when floor and
/// zero point are frozen (Genie-M, arXiv 2212.04780). Terms are f32; they are summed in f64 row by row, whatever
/// the number of threads. An unused lane must have gradients of zero, and gets zero.
pub fn scale_gradient(
    shape: LaneShape,
    alpha: &[f32],
    floor: &[f32],
    grad: &[f32],
    grid: LaneGrid<'_>,
    out: &mut [f64],
) {
    assert_eq!([alpha.len(), floor.len()], [grad.len(); 2], "weights");
    assert_eq!(out.len() * shape.rows, grad.len(), "one gradient for each lane of each group");
    let LaneShape { rows, lanes } = shape;
    out.par_chunks_mut(lanes).enumerate().for_each(|(group, out)| {
        let [alpha, floor, grad] = [alpha, floor, grad].map(|values| &values[group * rows * lanes..][..rows * lanes]);
        let zero_point = &grid.zero_point[group * lanes..][..lanes];
        vectorize(
            #[inline(always)]
            || {
                out.fill(0.0);
                for row in 0..rows {
                    let [alpha, floor, grad] = [alpha, floor, grad].map(|values| &values[row * lanes..][..lanes]);
                    let (numbers, bounds) = ([alpha, floor, grad, zero_point], [grid.qmin, grid.qmax]);
                    // Two calls, so that the loops do not branch.
                    if grid.hard {
                        scale_gradient_row(numbers, |a, f, z| hard_value(a, f, 1.0, z, bounds), out);
                    } else {
                        scale_gradient_row(numbers, |a, f, z| soft_value(a, f, 1.0, z, bounds), out);
                    }
                }
            },
        );
    });
}

/// What one row adds to the gradients of the scales. `integer` has alpha, floor and zero point.
#[inline(always)]
fn scale_gradient_row(numbers: [&[f32]; 4], integer: impl Fn(f32, f32, f32) -> f32, out: &mut [f64]) {
    let term = |alpha: f32, floor: f32, grad: f32, zero_point: f32| grad * integer(alpha, floor, zero_point);
    let (out, out_rest) = out.as_chunks_mut::<SIDE>();
    let parts = numbers.map(|n| n.as_chunks::<SIDE>());
    for (i, out) in out.iter_mut().enumerate() {
        let [alpha, floor, grad, zero_point] = parts.map(|(whole, _)| &whole[i]);
        // In two loops: numbers of two sizes in one would halve the vectors of the longer one.
        let mut terms = [0.0; SIDE];
        for l in 0..SIDE {
            terms[l] = term(alpha[l], floor[l], grad[l], zero_point[l]);
        }
        for l in 0..SIDE {
            out[l] += f64::from(terms[l]);
        }
    }
    let [alpha, floor, grad, zero_point] = parts.map(|(_, rest)| rest);
    for (l, out) in out_rest.iter_mut().enumerate() {
        *out += f64::from(term(alpha[l], floor[l], grad[l], zero_point[l]));
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

/// The rounding variables of one weight with the state of Adam, and the soft weight that they give.
pub struct Learned<'a> {
    /// The rounding variables.
    pub alpha: &'a mut [f32],
    /// Running mean of the gradients, Adam's first moment.
    pub mean: &'a mut [f32],
    /// Running mean of the squared gradients, Adam's second moment.
    pub square: &'a mut [f32],
    /// Takes the soft weight of the updated alpha.
    pub weight: &'a mut [f32],
}

/// One update of alpha, from the gradient of the soft weight that `grid` gave. `next` is the grid of the next soft
/// weight: `grid`, unless the scales are learned. `room` is that of [`sums`]. Returns the regularizer before the
/// update.
#[allow(clippy::too_many_arguments)]
pub fn learn(
    shape: LaneShape,
    learned: Learned<'_>,
    floor: &[f32],
    grad: &[f32],
    grid: LaneGrid<'_>,
    next: LaneGrid<'_>,
    regularizer: Option<Regularizer>,
    adam: AdamStep,
    room: &mut [f64],
) -> f64 {
    let len = learned.alpha.len();
    assert_eq!([learned.mean.len(), learned.square.len(), learned.weight.len()], [len; 3], "what is learned");
    assert_eq!([floor.len(), grad.len(), room.len()], [len, len, sums(shape, len)], "weights");
    let update = adam.rates();
    let piece = ROWS * shape.lanes;
    let learned = learned
        .alpha
        .par_chunks_mut(piece)
        .zip(learned.mean.par_chunks_mut(piece))
        .zip(learned.square.par_chunks_mut(piece).zip(learned.weight.par_chunks_mut(piece)));
    let pieces = learned.zip(floor.par_chunks(piece).zip(grad.par_chunks(piece))).zip(room.par_iter_mut());
    pieces.enumerate().for_each(|(i, ((((alpha, mean), (square, weight)), (floor, grad)), sum))| {
        let learned = Learned { alpha, mean, square, weight };
        *sum = vectorize(
            #[inline(always)]
            || match regularizer {
                // Two calls, so that the loops do not branch on the regularizer.
                Some(_) => learn_rows(shape, i * ROWS, learned, floor, grad, [grid, next], regularizer, update),
                None => learn_rows(shape, i * ROWS, learned, floor, grad, [grid, next], None, update),
            },
        );
    });
    room.iter().sum()
}

/// As [`learn`], for the rows from `first` on. Three loops over values in the L1 cache: the operations on a value wait
/// for each other, and the processor overlaps the shorter chains of several elements better.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn learn_rows(
    shape: LaneShape,
    first: usize,
    learned: Learned<'_>,
    floor: &[f32],
    grad: &[f32],
    [grid, next]: [LaneGrid<'_>; 2],
    regularizer: Option<Regularizer>,
    update: Rates,
) -> f64 {
    let Learned { alpha, mean, square, weight } = learned;
    let lanes = shape.lanes;
    let mut sum = [0.0; SIDE];
    // The gradients are kept for a moment in the place of the next soft weight.
    let rows = alpha.chunks_exact(lanes).zip(weight.chunks_exact_mut(lanes));
    let rows = rows.zip(floor.chunks_exact(lanes).zip(grad.chunks_exact(lanes)));
    for (r, ((alpha, gradient), (floor, grad))) in rows.enumerate() {
        let (scale, zero_point) = grid.of_row(shape, first + r);
        gradients([alpha, floor, grad, scale, zero_point], gradient, &grid, regularizer, &mut sum);
    }
    let state = alpha.iter_mut().zip(mean).zip(square.iter_mut().zip(&*weight));
    for ((alpha, mean), (square, gradient)) in state {
        update.apply(alpha, mean, square, *gradient);
    }
    soft_rows(shape, first, alpha, floor, next, weight);
    sum.iter().sum()
}

/// The gradients of a row of alphas. `sum` takes the terms of the regularizer lane by lane: a single sum would
/// prevent vectorization.
#[inline(always)]
fn gradients(
    numbers: [&[f32]; 5],
    out: &mut [f32],
    grid: &LaneGrid<'_>,
    regularizer: Option<Regularizer>,
    sum: &mut [f64; SIDE],
) {
    let (out, out_rest) = out.as_chunks_mut();
    let parts = numbers.map(|n| n.as_chunks());
    for (i, out) in out.iter_mut().enumerate() {
        *out = side(parts.map(|(whole, _)| &whole[i]), grid, regularizer, sum);
    }
    if !out_rest.is_empty() {
        // Padding has the scale 0, with which it counts for nothing.
        let mut padded = [[0.0; SIDE]; 5];
        for (padded, (_, rest)) in padded.iter_mut().zip(parts) {
            padded[..rest.len()].copy_from_slice(rest);
        }
        let gradients = side(padded.each_ref(), grid, regularizer, sum);
        out_rest.copy_from_slice(&gradients[..out_rest.len()]);
    }
}

#[inline(always)]
fn side(
    [alpha, floor, grad, scale, zero_point]: [&[f32; SIDE]; 5],
    grid: &LaneGrid<'_>,
    regularizer: Option<Regularizer>,
    sum: &mut [f64; SIDE],
) -> [f32; SIDE] {
    let (mut gradients, mut terms) = ([0.0; SIDE], [0.0; SIDE]);
    for l in 0..SIDE {
        (gradients[l], terms[l]) = gradient(alpha[l], floor[l], grad[l], scale[l], zero_point[l], grid, regularizer);
    }
    for l in 0..SIDE {
        sum[l] += f64::from(terms[l]);
    }
    gradients
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

/// Number of partial sums that [`learn`] needs room for.
pub fn sums(shape: LaneShape, len: usize) -> usize {
    len.div_ceil(ROWS * shape.lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn noise(len: usize, size: f32, seed: u64) -> Vec<f32> {
        testing::uniform(len, -size..size, seed)
    }

    /// AdaRound, equation 23, in f64: the value and its derivative.
    fn h(alpha: f64) -> (f64, f64) {
        let sigmoid = 1.0 / (1.0 + (-alpha).exp());
        let raw = sigmoid * 1.2 - 0.1;
        (raw.clamp(0.0, 1.0), if (0.0..=1.0).contains(&raw) { 1.2 * sigmoid * (1.0 - sigmoid) } else { 0.0 })
    }

    /// The rounding that weights are computed with.
    fn rounding(alpha: f64, hard: bool) -> f64 {
        let soft = h(alpha).0;
        match hard {
            true if soft >= 0.5 => 1.0,
            true => 0.0,
            false => soft,
        }
    }

    fn check(
        shape: LaneShape,
        groups: usize,
        hard: bool,
        regularizer: Option<Regularizer>,
        step: usize,
    ) -> Result<(), TestCaseError> {
        let len = groups * shape.rows * shape.lanes;
        let (mut alpha, mut mean, grad) = (noise(len, 5.0, 0), noise(len, 0.1, 1), noise(len, 1.0, 2));
        let (mut square, mut floor) = (noise(len, 0.1, 3), noise(len, 4.0, 4));
        square.iter_mut().for_each(|v| *v = v.abs());
        floor.iter_mut().for_each(|v| *v = v.floor());
        let (mut scale, mut zero_point) = (noise(groups * shape.lanes, 1.0, 5), noise(groups * shape.lanes, 3.0, 6));
        // The last lane is unused.
        scale
            .iter_mut()
            .enumerate()
            .for_each(|(i, s)| *s = if (i + 1).is_multiple_of(shape.lanes) { 0.0 } else { s.abs() });
        zero_point.iter_mut().for_each(|z| *z = z.round() + 2.0);
        let grid = LaneGrid { scale: &scale, zero_point: &zero_point, qmin: 0.0, qmax: 3.0, hard };
        let adam = AdamStep { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step };

        let before = [&alpha, &mean, &square].map(Vec::clone);
        let (mut weight, mut room) = (vec![0.0; len], vec![9.0; sums(shape, len)]);
        let learned = Learned { alpha: &mut alpha, mean: &mut mean, square: &mut square, weight: &mut weight };
        // The next soft weight has scales of its own, as where they are learned.
        let next_scale: Vec<f32> = scale.iter().map(|s| 1.25 * s).collect();
        let next = LaneGrid { scale: &next_scale, ..grid };
        let sum = learn(shape, learned, &floor, &grad, grid, next, regularizer, adam, &mut room);
        let mut want_sum = 0.0;
        for i in 0..len {
            let lane = i / (shape.rows * shape.lanes) * shape.lanes + i % shape.lanes;
            let [a, m, v, g, f, s, z] =
                [before[0][i], before[1][i], before[2][i], grad[i], floor[i], scale[lane], zero_point[lane]]
                    .map(f64::from);
            let (height, slope) = h(a);
            let mut dh = if (0.0..=3.0).contains(&(f + height + z)) { g * s } else { 0.0 };
            if let (Some(r), true) = (regularizer, s > 0.0) {
                let (lambda, b, centred) = (f64::from(r.weight), f64::from(r.b), 2.0 * height - 1.0);
                dh -= lambda * 2.0 * b * centred.signum() * centred.abs().powf(b - 1.0);
                want_sum += lambda * (1.0 - centred.abs().powf(b));
            }
            let d = dh * slope;
            let (m, v) = (0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d * d);
            let [m_hat, v_hat] = [m / (1.0 - 0.9_f64.powi(step as i32)), v / (1.0 - 0.999_f64.powi(step as i32))];
            let a = a - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            let w = ((f + rounding(a, hard) + z).clamp(0.0, 3.0) - z) * f64::from(next_scale[lane]);
            for (what, got, want) in
                [("alpha", alpha[i], a), ("mean", mean[i], m), ("square", square[i], v), ("weight", weight[i], w)]
            {
                let bound = 1e-5 * want.abs().max(0.1);
                prop_assert!((f64::from(got) - want).abs() <= bound, "{what} {i}: {got} {want}");
            }
        }
        prop_assert!((sum - want_sum).abs() <= 1e-5 * want_sum, "{sum} {want_sum}");
        // A resumed run computes the soft weight from alpha again, and must get what the update left.
        let mut again = vec![0.0; len];
        soft_weight(shape, &alpha, &floor, next, &mut again);
        prop_assert_eq!(&again[..], &weight[..]);
        Ok(())
    }

    /// Gradients of scales against the sum in f64, and against the difference quotient of `sum(grad * weight)`,
    /// which is linear in the scales.
    fn check_scales(shape: LaneShape, groups: usize, hard: bool) -> Result<(), TestCaseError> {
        let LaneShape { rows, lanes } = shape;
        let len = groups * rows * lanes;
        let (alpha, mut floor, grad) = (noise(len, 5.0, 0), noise(len, 4.0, 4), noise(len, 1.0, 2));
        floor.iter_mut().for_each(|v| *v = v.floor());
        let (scale, zero_point) = (noise(groups * lanes, 1.0, 5), vec![2.0; groups * lanes]);
        let scale: Vec<f32> = scale.iter().map(|s| s.abs() + 0.1).collect();
        let grid = LaneGrid { scale: &scale, zero_point: &zero_point, qmin: 0.0, qmax: 3.0, hard };
        let mut got = vec![9.0; groups * lanes];
        scale_gradient(shape, &alpha, &floor, &grad, grid, &mut got);
        let loss = |scale: &[f32]| -> Vec<f64> {
            let mut weight = vec![0.0; len];
            soft_weight(shape, &alpha, &floor, LaneGrid { scale, ..grid }, &mut weight);
            let mut loss = vec![0.0; groups * lanes];
            for (i, (w, g)) in weight.iter().zip(grad.iter()).enumerate() {
                loss[i / (rows * lanes) * lanes + i % lanes] += f64::from(*w) * f64::from(*g);
            }
            loss
        };
        let doubled: Vec<f32> = scale.iter().map(|s| 2.0 * s).collect();
        let (one, two) = (loss(&scale), loss(&doubled));
        for lane in 0..groups * lanes {
            let (mut want, mut size) = (0.0, 0.0);
            for row in 0..rows {
                let i = (lane / lanes * rows + row) * lanes + lane % lanes;
                let [a, f, g] = [alpha[i], floor[i], grad[i]].map(f64::from);
                let term = g * ((f + rounding(a, hard) + 2.0).clamp(0.0, 3.0) - 2.0);
                want += term;
                size += f64::abs(term);
            }
            prop_assert!((got[lane] - want).abs() <= 1e-6 * size.max(0.1), "scale {lane}: {} {want}", got[lane]);
            let quotient = (two[lane] - one[lane]) / f64::from(scale[lane]);
            prop_assert!((got[lane] - quotient).abs() <= 1e-5 * size.max(0.1), "{lane}: {} {quotient}", got[lane]);
        }
        // Whatever the number of threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut again = vec![9.0; groups * lanes];
        pool.install(|| scale_gradient(shape, &alpha, &floor, &grad, grid, &mut again));
        prop_assert_eq!(again, got);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn an_update_agrees_with_the_formulas(
            rows in 1_usize..80, lanes in prop::sample::select(vec![2_usize, 5, 16, 17, 32, 45]), groups in 1_usize..4,
            hard: bool, regularizer in prop::option::of((0.01_f32..0.2, 2.0_f32..20.0)), step in 1_usize..30,
        ) {
            let regularizer = regularizer.map(|(weight, b)| Regularizer { weight, b });
            check(LaneShape { rows, lanes }, groups, hard, regularizer, step)?;
        }

        #[test]
        fn the_gradient_of_a_scale_is_that_of_the_weight(
            rows in 1_usize..80, lanes in prop::sample::select(vec![2_usize, 5, 16, 17, 32, 45]), groups in 1_usize..4,
            hard: bool,
        ) {
            check_scales(LaneShape { rows, lanes }, groups, hard)?;
        }
    }
}
