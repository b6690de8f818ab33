//! AdaRound on packed weights: the soft weight; and in one pass the gradient of alpha, the regularizer, the
//! Adam update and the next soft weight.

use crate::adam::{AdamStep, Rates};
use crate::adaround::{rectified_sigmoid, soft_value, GAMMA, ZETA};
use crate::math::power;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rows that are processed by one task: what is known of them stays in the cache nearest to the processor.
const ROWS: usize = 32;
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
        for l in 0..lanes {
            out[l] = soft_value(alpha[l], floor[l], scale[l], zero_point[l], [grid.qmin, grid.qmax]);
        }
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

/// One update of alpha, from the gradient of the soft weight. `room` is that of [`sums`]. Returns the regularizer
/// before the update.
#[allow(clippy::too_many_arguments)]
pub fn learn(
    shape: LaneShape,
    learned: Learned<'_>,
    floor: &[f32],
    grad: &[f32],
    grid: LaneGrid<'_>,
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
                // Two bodies: whether there is a regularizer leaves the loops.
                Some(_) => learn_rows(shape, i * ROWS, learned, floor, grad, grid, regularizer, update),
                None => learn_rows(shape, i * ROWS, learned, floor, grad, grid, None, update),
            },
        );
    });
    room.iter().sum()
}

/// As [`learn`], for the rows from `first` on. Three loops, while all is in the cache: each is a chain of
/// operations that wait for each other, and short chains overlap better.
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
    let Learned { alpha, mean, square, weight } = learned;
    let lanes = shape.lanes;
    let mut sum = [0.0; SIDE];
    // The gradients lie for a moment where the weights will.
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
    soft_rows(shape, first, alpha, floor, grid, weight);
    sum.iter().sum()
}

/// The gradients of a row of alphas. `sum` takes terms of the regularizer lane by lane: one sum alone would stop
/// the wide instructions.
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
        // What lacks is zero, and a scale of 0 makes it count for nothing.
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

/// Numbers that [`learn`] needs room for.
pub fn sums(shape: LaneShape, len: usize) -> usize {
    len.div_ceil(ROWS * shape.lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nhwc::Buffer;
    use crate::random::Stream;
    use proptest::prelude::*;

    fn noise(len: usize, size: f64, salt: u32) -> Buffer {
        let stream = Stream { seed: 4, id: [salt; 3] };
        let mut out = Buffer::zeros(len);
        out.iter_mut().enumerate().for_each(|(i, v)| *v = ((stream.uniform(i) * 2.0 - 1.0) * size) as f32);
        out
    }

    /// AdaRound, equation 23, in f64: the value and its derivative.
    fn h(alpha: f64) -> (f64, f64) {
        let sigmoid = 1.0 / (1.0 + (-alpha).exp());
        let raw = sigmoid * 1.2 - 0.1;
        (raw.clamp(0.0, 1.0), if (0.0..=1.0).contains(&raw) { 1.2 * sigmoid * (1.0 - sigmoid) } else { 0.0 })
    }

    fn check(
        shape: LaneShape,
        groups: usize,
        regularizer: Option<Regularizer>,
        step: usize,
    ) -> Result<(), TestCaseError> {
        let len = groups * shape.rows * shape.lanes;
        let (mut alpha, mut mean, grad) = (noise(len, 5.0, 0), noise(len, 0.1, 1), noise(len, 1.0, 2));
        let (mut square, mut floor) = (noise(len, 0.1, 3), noise(len, 4.0, 4));
        square.iter_mut().for_each(|v| *v = v.abs());
        floor.iter_mut().for_each(|v| *v = v.floor());
        let (mut scale, mut zero_point) = (noise(groups * shape.lanes, 1.0, 5), noise(groups * shape.lanes, 3.0, 6));
        // The last lane is not used.
        scale
            .iter_mut()
            .enumerate()
            .for_each(|(i, s)| *s = if (i + 1).is_multiple_of(shape.lanes) { 0.0 } else { s.abs() });
        zero_point.iter_mut().for_each(|z| *z = z.round() + 2.0);
        let grid = LaneGrid { scale: &scale, zero_point: &zero_point, qmin: 0.0, qmax: 3.0 };
        let adam = AdamStep { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step };

        let before = [&alpha, &mean, &square].map(|b| b.to_vec());
        let (mut weight, mut room) = (Buffer::zeros(len), vec![9.0; sums(shape, len)]);
        let learned = Learned { alpha: &mut alpha, mean: &mut mean, square: &mut square, weight: &mut weight };
        let sum = learn(shape, learned, &floor, &grad, grid, regularizer, adam, &mut room);
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
            let w = ((f + h(a).0 + z).clamp(0.0, 3.0) - z) * s;
            for (what, got, want) in
                [("alpha", alpha[i], a), ("mean", mean[i], m), ("square", square[i], v), ("weight", weight[i], w)]
            {
                let bound = 1e-5 * want.abs().max(0.1);
                prop_assert!((f64::from(got) - want).abs() <= bound, "{what} {i}: {got} {want}");
            }
        }
        prop_assert!((sum - want_sum).abs() <= 1e-5 * want_sum, "{sum} {want_sum}");
        // What an interrupted run begins with again is what the update left.
        let mut again = Buffer::zeros(len);
        soft_weight(shape, &alpha, &floor, grid, &mut again);
        prop_assert_eq!(&again[..], &weight[..]);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn an_update_agrees_with_the_formulas(
            rows in 1_usize..80, lanes in prop::sample::select(vec![2_usize, 5, 16, 17, 32, 45]), groups in 1_usize..4,
            regularizer in prop::option::of((0.01_f32..0.2, 2.0_f32..20.0)), step in 1_usize..30,
        ) {
            let regularizer = regularizer.map(|(weight, b)| Regularizer { weight, b });
            check(LaneShape { rows, lanes }, groups, regularizer, step)?;
        }
    }
}
