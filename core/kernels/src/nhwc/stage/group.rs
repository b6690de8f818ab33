//! The arithmetic of a stage on one group of values: loops over whole vectors, without a rest.

use super::Step;
use crate::activation::Activation;
use crate::drop::{GROUP, LANES};
use crate::rounding::{clamp, round_half_even};
use pulp::Simd;

/// A group of values; what a row lacks at its end is zero.
pub type Group = [f32; GROUP];

/// Choices, a bit of a lane for each vector.
pub type Kept = [u32; LANES];

/// Sums in lanes: of the scale's gradient, of the zero point's, of the loss.
pub type Lanes = [[f32; LANES]; 3];

/// A group of up to [`GROUP`] values; `room` takes it where there are fewer.
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

/// A quantizer's grid, with what its arithmetic needs.
pub struct Grid {
    step: Step,
    inverse: f32,
}

impl Grid {
    /// Without a step, a grid that is not used.
    pub fn new(step: Option<Step>) -> Self {
        let step = step.unwrap_or(Step { scale: 1.0, zero_point: 0.0, qmin: 0.0, qmax: 0.0 });
        Self { step, inverse: 1.0 / step.scale }
    }

    /// `x / scale`, correctly rounded: a division costs more than the product with the inverse and one
    /// step of Newton's method (Markstein, "Computation of elementary functions on the IBM RISC System/6000
    /// processor", IBM Journal of Research and Development 34, 1990).
    #[inline(always)]
    fn divide(&self, x: f32) -> f32 {
        let quotient = x * self.inverse;
        let rest = quotient.mul_add(-self.step.scale, x);
        rest.mul_add(self.inverse, quotient)
    }

    /// The steps from zero, the position before rounding, and whether the grid holds it.
    #[inline(always)]
    fn quantize(&self, x: f32) -> (f32, f32, bool) {
        let s = &self.step;
        let t = self.divide(x);
        let r = round_half_even(t) + s.zero_point;
        let c = clamp(r, s.qmin, s.qmax);
        (c - s.zero_point, t, c == r)
    }

    #[inline(always)]
    fn fake_quantize(&self, x: f32) -> f32 {
        self.quantize(x).0 * self.step.scale
    }
}

#[inline(always)]
fn apply_activation(activation: Option<Activation>, z: f32) -> f32 {
    match activation {
        Some(a) => a.value(z),
        None => z,
    }
}

#[inline(always)]
fn slope(activation: Option<Activation>, z: f32) -> f32 {
    match activation {
        Some(a) => a.derivative(z),
        None => 1.0,
    }
}

/// One of two values. Both are computed: a branch would stop the wide instructions.
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

/// The value of a stage. The shortcut is added to z.
#[inline(always)]
pub fn forward(
    activation: Option<Activation>,
    quantized: bool,
    grid: &Grid,
    kept: &Kept,
    (z, shortcut): (&Group, Option<&Group>),
    out: &mut Group,
) {
    for part in 0..GROUP / LANES {
        for (l, kept) in kept.iter().enumerate() {
            let j = part * LANES + l;
            let x = apply_activation(activation, sum(z, shortcut, j));
            let rounded = quantized & (kept & 1 << part != 0);
            out[j] = either(rounded, grid.fake_quantize(x), x);
        }
    }
}

/// The value of a stage without drop, in place.
#[inline(always)]
pub fn apply(activation: Option<Activation>, quantized: bool, grid: &Grid, values: &mut Group) {
    for value in values {
        let x = apply_activation(activation, *value);
        *value = if quantized { grid.fake_quantize(x) } else { x };
    }
}

/// Backward of one value: the gradient of z, and what it adds to those of scale and zero point.
#[inline(always)]
fn value_backward(activation: Option<Activation>, rounded: bool, z: f32, x: f32, g: f32, grid: &Grid) -> [f32; 3] {
    let (steps, t, inside) = grid.quantize(x);
    let passes = !rounded | inside;
    let scale = if inside { steps - t } else { steps };
    let dz = if passes { g * slope(activation, z) } else { 0.0 };
    let outside = rounded & !inside;
    [dz, if rounded { g * scale } else { 0.0 }, if outside { -g * grid.step.scale } else { 0.0 }]
}

/// The gradient of z from that of the stage's value, in place. The shortcut is added to z. Where a row lacks values both are zero, and
/// nothing is added to the sums.
#[inline(always)]
pub fn backward(
    activation: Option<Activation>,
    quantized: bool,
    grid: &Grid,
    kept: &Kept,
    (z, shortcut): (&Group, Option<&Group>),
    gradient: &mut Group,
    sums: &mut Lanes,
) {
    // A copy that no reference points to stays in registers.
    let mut now = *sums;
    for part in 0..GROUP / LANES {
        for l in 0..LANES {
            let j = part * LANES + l;
            let z = sum(z, shortcut, j);
            let x = apply_activation(activation, z);
            let rounded = quantized & (kept[l] & 1 << part != 0);
            let [dz, scale, zero_point] = value_backward(activation, rounded, z, x, gradient[j], grid);
            gradient[j] = dz;
            now[0][l] += scale;
            now[1][l] += zero_point;
        }
    }
    *sums = now;
}

/// The gradient of `factor` times the squared differences between the stage's values and `target`; only
/// the first `used` values count. The shortcut is added to z.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn end(
    activation: Option<Activation>,
    quantized: bool,
    grid: &Grid,
    kept: &Kept,
    (z, shortcut, target): (&Group, Option<&Group>, &Group),
    factor: f32,
    used: usize,
    sums: &mut Lanes,
    gradient: &mut Group,
) {
    let mut now = *sums;
    for part in 0..GROUP / LANES {
        for l in 0..LANES {
            let j = part * LANES + l;
            let z = sum(z, shortcut, j);
            let x = apply_activation(activation, z);
            let rounded = quantized & (kept[l] & 1 << part != 0);
            let value = either(rounded, grid.fake_quantize(x), x);
            let difference = if j < used { value - target[j] } else { 0.0 };
            let g = 2.0 * factor * difference;
            let [dz, scale, zero_point] = value_backward(activation, rounded, z, x, g, grid);
            gradient[j] = dz;
            now[0][l] += scale;
            now[1][l] += zero_point;
            now[2][l] += difference * difference;
        }
    }
    *sums = now;
}

/// The quantized values where they are kept, the others elsewhere. In vectors by hand: the compiler makes a
/// choice between values that are in memory a branch for each of them.
#[inline(always)]
pub fn mix<S: Simd>(simd: S, kept: &Kept, quantized: &Group, full: &Group, out: &mut Group) {
    let (kept, _) = S::as_simd_u32s(kept);
    let ((q, _), (f, _), (out, _)) = (S::as_simd_f32s(quantized), S::as_simd_f32s(full), S::as_mut_simd_f32s(out));
    let vectors = LANES / S::F32_LANES;
    for (i, out) in out.iter_mut().enumerate() {
        let bit = simd.splat_u32s(1 << (i / vectors));
        let chosen = simd.equal_u32s(simd.and_u32s(kept[i % vectors], bit), bit);
        *out = simd.select_f32s(chosen, q[i], f[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_the_inverse_divide_exactly() {
        let stream = crate::random::Stream { seed: 7, id: [0; 3] };
        for i in 0..2_000_000 {
            let scale = f32::from_bits(0x3400_0000 + stream.u32(2 * i) % 0x1000_0000);
            // Positions between steps, of which ties matter most.
            let x = (stream.u32(2 * i + 1) % 65_536) as f32 / 256.0 * scale - 100.0 * scale;
            let grid = Grid::new(Some(Step { scale, zero_point: 0.0, qmin: 0.0, qmax: 15.0 }));
            assert_eq!(grid.divide(x), x / scale, "{x} / {scale}");
        }
    }
}
