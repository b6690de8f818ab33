//! The arithmetic of a stage on one group of values: loops over whole vectors, without a rest.

use super::function::Function;
use super::grid::TensorGrid;
use crate::clip;
use crate::drop::{GROUP, LANES};
use crate::fake_quantize::lsq_gradient;
use crate::rounding::{clamp, round_half_even};
use pulp::Simd;

/// A group of values. The last group of a row is padded with zeros.
pub type Group = [f32; GROUP];

/// Sums kept lane by lane: of the gradient of the scale, of that of the zero point, and of the loss.
pub type Lanes = [[f32; LANES]; 3];

/// Up to [`GROUP`] values as a group. If there are fewer, they are copied to `room` and padded.
#[inline(always)]
pub fn whole<'a>(values: &'a [f32], room: &'a mut Group) -> &'a Group {
    match values.try_into() {
        Ok(group) => group,
        Err(_) => {
            *room = [0.0; GROUP];
            room[..values.len()].copy_from_slice(values);
            room
        }
    }
}

/// Calls `body` with up to [`GROUP`] values as a group. Whole groups are not copied.
#[inline(always)]
pub fn in_place(values: &mut [f32], mut body: impl FnMut(&mut Group)) {
    match <&mut Group>::try_from(&mut *values) {
        Ok(group) => body(group),
        Err(_) => {
            let mut group = [0.0; GROUP];
            group[..values.len()].copy_from_slice(values);
            body(&mut group);
            values.copy_from_slice(&group[..values.len()]);
        }
    }
}

/// A quantizer's grid, with the reciprocal of its scale.
pub struct PreparedGrid {
    grid: TensorGrid,
    inverse: f32,
}

impl PreparedGrid {
    /// Without a quantizer, a grid that nothing uses.
    pub fn new(grid: Option<TensorGrid>) -> Self {
        let grid = grid.unwrap_or(TensorGrid { scale: 1.0, zero_point: 0.0, qmin: 0.0, qmax: 0.0 });
        Self { grid, inverse: 1.0 / grid.scale }
    }

    /// `x / scale`, correctly rounded: a division costs more than the product with the inverse and one
    /// step of Newton's method (Markstein, "Computation of elementary functions on the IBM RISC System/6000
    /// processor", IBM Journal of Research and Development 34, 1990).
    #[inline(always)]
    fn divide(&self, x: f32) -> f32 {
        let quotient = x * self.inverse;
        let rest = quotient.mul_add(-self.grid.scale, x);
        rest.mul_add(self.inverse, quotient)
    }

    #[inline(always)]
    fn fake_quantize(&self, x: f32) -> f32 {
        let s = &self.grid;
        (clamp(round_half_even(self.divide(x)) + s.zero_point, s.qmin, s.qmax) - s.zero_point) * s.scale
    }

    /// Whether `x` lies within the grid, and the gradients of scale and zero point from that of the quantized value.
    #[inline(always)]
    fn lsq_gradient(&self, x: f32, gradient: f32) -> (bool, f32, f32) {
        let TensorGrid { scale, zero_point, qmin, qmax } = self.grid;
        lsq_gradient(self.divide(x), gradient, scale, zero_point, [qmin, qmax])
    }
}

/// The activation function of value `j` of a group.
#[inline(always)]
fn activate(activation: Option<Function<&Group>>, j: usize, z: f32) -> f32 {
    match activation {
        Some(Function::Activation(a)) => a.value(z),
        Some(Function::Clip(bounds)) => clip::value(z, bounds[j]),
        None => z,
    }
}

/// The derivative of the activation function of value `j` of a group.
#[inline(always)]
fn slope(activation: Option<Function<&Group>>, j: usize, z: f32) -> f32 {
    match activation {
        Some(Function::Activation(a)) => a.derivative(z),
        Some(Function::Clip(bounds)) => clip::derivative(z, bounds[j]),
        None => 1.0,
    }
}

/// One of two values. Both were computed: a branch would prevent vectorization.
#[inline(always)]
fn either(first: bool, a: f32, b: f32) -> f32 {
    let mask = u32::from(first).wrapping_neg();
    f32::from_bits(b.to_bits() ^ ((a.to_bits() ^ b.to_bits()) & mask))
}

/// Value `j` of z, with the shortcut's.
#[inline(always)]
fn sum(z: &Group, shortcut: Option<&Group>, j: usize) -> f32 {
    match shortcut {
        Some(s) => z[j] + s[j],
        None => z[j],
    }
}

/// How the quantized and the full-precision values of a group become one.
pub trait Mix {
    /// Value `16 * part + lane` from the quantized one and the one before the quantizer.
    fn value(&self, part: usize, lane: usize, rounded: f32, x: f32) -> f32;

    /// Backward of this value, which is `x` before the quantizer: the gradients of `x`, of the scale and of the zero point
    /// from the gradient of the value.
    fn backward(&self, part: usize, lane: usize, x: f32, gradient: f32, grid: &PreparedGrid) -> [f32; 3];

    /// The mix of other values, none of which this module rounds.
    fn mix<S: Simd>(&self, simd: S, quantized: &Group, full: &Group, out: &mut Group);
}

/// The choices of drop, lane by lane: bit `part` of a lane is that of value `16 * part + lane`.
pub struct Chosen(pub [u32; LANES]);

impl Mix for Chosen {
    #[inline(always)]
    fn value(&self, part: usize, lane: usize, rounded: f32, x: f32) -> f32 {
        either(self.0[lane] & 1 << part != 0, rounded, x)
    }

    #[inline(always)]
    fn backward(&self, part: usize, lane: usize, x: f32, gradient: f32, grid: &PreparedGrid) -> [f32; 3] {
        let rounded = self.0[lane] & 1 << part != 0;
        let (inside, of_scale, of_zero_point) = grid.lsq_gradient(x, gradient);
        let dx = if !rounded | inside { gradient } else { 0.0 };
        [dx, if rounded { of_scale } else { 0.0 }, if rounded { of_zero_point } else { 0.0 }]
    }

    /// Written with explicit vectors: the compiler would branch for every value, to load only one of the two.
    #[inline(always)]
    fn mix<S: Simd>(&self, simd: S, quantized: &Group, full: &Group, out: &mut Group) {
        let (kept, _) = S::as_simd_u32s(&self.0);
        let ((q, _), (f, _), (out, _)) = (S::as_simd_f32s(quantized), S::as_simd_f32s(full), S::as_mut_simd_f32s(out));
        let vectors = LANES / S::F32_LANES;
        for (i, out) in out.iter_mut().enumerate() {
            let bit = simd.splat_u32s(1 << (i / vectors));
            let chosen = simd.equal_u32s(simd.and_u32s(kept[i % vectors], bit), bit);
            *out = simd.select_f32s(chosen, q[i], f[i]);
        }
    }
}

/// The weights of the quantized values.
pub struct Weighted(pub Group);

impl Mix for Weighted {
    #[inline(always)]
    fn value(&self, part: usize, lane: usize, rounded: f32, x: f32) -> f32 {
        x + (rounded - x) * self.0[part * LANES + lane]
    }

    #[inline(always)]
    fn backward(&self, part: usize, lane: usize, x: f32, gradient: f32, grid: &PreparedGrid) -> [f32; 3] {
        let of_rounded = gradient * self.0[part * LANES + lane];
        let (inside, of_scale, of_zero_point) = grid.lsq_gradient(x, of_rounded);
        let dx = (gradient - of_rounded) + if inside { of_rounded } else { 0.0 };
        [dx, of_scale, of_zero_point]
    }

    #[inline(always)]
    fn mix<S: Simd>(&self, _: S, quantized: &Group, full: &Group, out: &mut Group) {
        for j in 0..GROUP {
            out[j] = full[j] + (quantized[j] - full[j]) * self.0[j];
        }
    }
}

/// The value of a stage. The shortcut is added to z.
#[inline(always)]
pub fn forward(
    activation: Option<Function<&Group>>,
    quantized: bool,
    grid: &PreparedGrid,
    mix: &impl Mix,
    (z, shortcut): (&Group, Option<&Group>),
    out: &mut Group,
) {
    for part in 0..GROUP / LANES {
        for l in 0..LANES {
            let j = part * LANES + l;
            let x = activate(activation, j, sum(z, shortcut, j));
            out[j] = if quantized { mix.value(part, l, grid.fake_quantize(x), x) } else { x };
        }
    }
}

/// The value of a stage without drop, in place.
#[inline(always)]
pub fn apply(activation: Option<Function<&Group>>, quantized: bool, grid: &PreparedGrid, values: &mut Group) {
    for (j, value) in values.iter_mut().enumerate() {
        let x = activate(activation, j, *value);
        *value = if quantized { grid.fake_quantize(x) } else { x };
    }
}

/// The gradient of z from that of the stage's value, in place. The shortcut is added to z. Padding at
/// the end of a row is zero in both, and adds nothing to the sums.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "a lane indexes several arrays")]
pub fn backward(
    activation: Option<Function<&Group>>,
    quantized: bool,
    grid: &PreparedGrid,
    mix: &impl Mix,
    (z, shortcut): (&Group, Option<&Group>),
    gradient: &mut Group,
    sums: &mut Lanes,
) {
    // A copy that no reference points to can stay in registers.
    let mut now = *sums;
    for part in 0..GROUP / LANES {
        for l in 0..LANES {
            let j = part * LANES + l;
            let z = sum(z, shortcut, j);
            let x = activate(activation, j, z);
            let g = gradient[j];
            let [dx, scale, zero_point] = if quantized { mix.backward(part, l, x, g, grid) } else { [g, 0.0, 0.0] };
            gradient[j] = dx * slope(activation, j, z);
            now[0][l] += scale;
            now[1][l] += zero_point;
        }
    }
    *sums = now;
}

/// The gradient of `factor` times the squared differences between the stage's values and `target`, both clipped to a range
/// that lets gradients pass; only the first `used` values count. The shortcut is added to z.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
#[allow(clippy::needless_range_loop, reason = "a lane indexes several arrays")]
pub fn end(
    activation: Option<Function<&Group>>,
    quantized: bool,
    grid: &PreparedGrid,
    mix: &impl Mix,
    (z, shortcut, target): (&Group, Option<&Group>, &Group),
    (factor, [low, high]): (f32, [f32; 2]),
    used: usize,
    sums: &mut Lanes,
    gradient: &mut Group,
) {
    let mut now = *sums;
    for part in 0..GROUP / LANES {
        for l in 0..LANES {
            let j = part * LANES + l;
            let z = sum(z, shortcut, j);
            let x = activate(activation, j, z);
            let value = if quantized { mix.value(part, l, grid.fake_quantize(x), x) } else { x };
            let difference = if j < used { clamp(value, low, high) - clamp(target[j], low, high) } else { 0.0 };
            let g = 2.0 * factor * difference;
            let [dx, scale, zero_point] = if quantized { mix.backward(part, l, x, g, grid) } else { [g, 0.0, 0.0] };
            gradient[j] = dx * slope(activation, j, z);
            now[0][l] += scale;
            now[1][l] += zero_point;
            now[2][l] += difference * difference;
        }
    }
    *sums = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_the_inverse_divide_exactly() {
        let stream = crate::random::Stream { seed: 7, id: [0; 3] };
        for i in 0..2_000_000 {
            let scale = f32::from_bits(0x3400_0000 + stream.u32(2 * i) % 0x1000_0000);
            // Positions between two values of the grid, of which ties matter most.
            let x = (stream.u32(2 * i + 1) % 65_536) as f32 / 256.0 * scale - 100.0 * scale;
            let grid = PreparedGrid::new(Some(TensorGrid { scale, zero_point: 0.0, qmin: 0.0, qmax: 15.0 }));
            assert_eq!(grid.divide(x), x / scale, "{x} / {scale}");
        }
    }
}
