//! What stands between two convolutions of a unit, in one pass: activation function, quantizer and
//! drop; at the unit's end also the shortcut and the loss.

use super::shared::Shared;
use super::Layout;
use crate::activation::Activation;
use crate::drop::{Keep, GROUP};
use crate::rounding::round_half_even;
use crate::simd::vectorize;
use rayon::prelude::*;

/// A grid that a whole tensor shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Step of the grid.
    pub scale: f32,
    /// Integer that stands for zero.
    pub zero_point: f32,
    /// Smallest integer.
    pub qmin: f32,
    /// Largest integer.
    pub qmax: f32,
}

/// What becomes of a convolution's result: `drop(fake_quantize(activation(z + shortcut)))`.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// The activation function, if there is one.
    pub activation: Option<Activation>,
    /// The quantizer's grid, if there is one.
    pub step: Option<Step>,
}

/// What a stage adds to the gradients of scale and zero point, and to the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Gradient of the scale.
    pub scale: f64,
    /// Gradient of the zero point.
    pub zero_point: f64,
    /// Sum of squared errors.
    pub loss: f64,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            scale: self.scale + other.scale,
            zero_point: self.zero_point + other.zero_point,
            loss: self.loss + other.loss,
        }
    }
}

/// An image that is read.
pub type Read<'a> = (&'a [f32], Layout);
/// An image that is written.
pub type Written<'a> = (&'a mut [f32], Layout);

/// Calls `body` with the stage's parts as constants, so that branches leave the loops.
macro_rules! specialize {
    ($stage:expr, $activation:ident, $quantized:ident => $body:expr) => {
        match ($stage.activation, $stage.step.is_some()) {
            (None, true) => specialize!(@ $activation, $quantized, None, true, $body),
            (None, false) => specialize!(@ $activation, $quantized, None, false, $body),
            (Some(Activation::Relu), true) => specialize!(@ $activation, $quantized, Some(Activation::Relu), true, $body),
            (Some(Activation::Relu6), true) => specialize!(@ $activation, $quantized, Some(Activation::Relu6), true, $body),
            (activation, quantized) => {
                #[allow(non_snake_case)]
                let ($activation, $quantized) = (activation, quantized);
                $body
            }
        }
    };
    (@ $activation:ident, $quantized:ident, $a:expr, $q:expr, $body:expr) => {{
        const $activation: Option<Activation> = $a;
        const $quantized: bool = $q;
        $body
    }};
}

const NO_STEP: Step = Step { scale: 1.0, zero_point: 0.0, qmin: 0.0, qmax: 0.0 };

#[inline(always)]
fn apply(activation: Option<Activation>, z: f32) -> f32 {
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

/// The steps from zero, the position before rounding, and whether the grid holds it.
#[inline(always)]
fn quantize(x: f32, s: &Step) -> (f32, f32, bool) {
    let t = x / s.scale;
    let r = round_half_even(t) + s.zero_point;
    let c = if r < s.qmin { s.qmin } else { r };
    let c = if c > s.qmax { s.qmax } else { c };
    (c - s.zero_point, t, c == r)
}

/// A group of values. Loops over whole groups need no rest; what a row lacks is zero.
type Group = [f32; GROUP];

#[inline(always)]
fn load(values: &[f32]) -> Group {
    let mut group = [0.0; GROUP];
    group[..values.len()].copy_from_slice(values);
    group
}

/// The groups of a row: number, offset and length of each. `row` counts the rows of all images.
#[inline(always)]
fn groups(row: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let count = len.div_ceil(GROUP);
    (0..count).map(move |g| (row * count + g, g * GROUP, GROUP.min(len - g * GROUP)))
}

#[inline(always)]
fn choose(keep: Keep<'_>, group: usize, first: usize, count: usize) -> [bool; GROUP] {
    let mut choices = [true; GROUP];
    match keep {
        Keep::Mask(_) => keep.group(group, first, &mut choices[..count]),
        _ => keep.group(group, first, &mut choices),
    }
    choices
}

/// The stage's value. `first_row` counts the rows of the images before these.
pub fn forward(stage: Stage, z: Read<'_>, keep: Keep<'_>, first_row: usize, out: Written<'_>) {
    let (layout, rows) = (z.1, z.1.height);
    let target = Shared::new(out.0);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        let z = &z.0[layout.offset(image, row)..][..layout.values()];
        // SAFETY: every task writes a row of its own.
        let out = unsafe { target.part(out.1.offset(image, row), out.1.values()) };
        let step = stage.step.unwrap_or(NO_STEP);
        specialize!(stage, ACTIVATION, QUANTIZED => vectorize(
            #[inline(always)]
            || forward_row(ACTIVATION, QUANTIZED, &step, z, keep, first_row + i, out)
        ));
    });
}

#[inline(always)]
fn forward_row(
    activation: Option<Activation>,
    quantized: bool,
    step: &Step,
    z: &[f32],
    keep: Keep<'_>,
    row: usize,
    out: &mut [f32],
) {
    for (group, at, n) in groups(row, z.len()) {
        let choices = choose(keep, group, row * z.len() + at, n);
        let mut values = load(&z[at..at + n]);
        for j in 0..GROUP {
            let x = apply(activation, values[j]);
            let q = quantize(x, step).0 * step.scale;
            values[j] = if quantized & choices[j] { q } else { x };
        }
        out[at..at + n].copy_from_slice(&values[..n]);
    }
}

/// Backward of one value: the gradient of z, and what it adds to those of scale and zero point.
#[inline(always)]
fn value_backward(activation: Option<Activation>, rounded: bool, z: f32, x: f32, g: f32, s: &Step) -> [f32; 3] {
    let (steps, t, inside) = quantize(x, s);
    let passes = !rounded | inside;
    let scale = if inside { steps - t } else { steps };
    let dz = if passes { g * slope(activation, z) } else { 0.0 };
    [dz, if rounded { g * scale } else { 0.0 }, if rounded & !inside { -g * s.scale } else { 0.0 }]
}

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// Sums of one row in lanes: of the scale, of the zero point, of the loss.
type Lanes = [[f32; LANES]; 3];

fn sums_of(lanes: Lanes) -> Sums {
    let [scale, zero_point, loss] = lanes.map(|lanes| lanes.iter().map(|v| f64::from(*v)).sum());
    Sums { scale, zero_point, loss }
}

/// Adds a group of values lane by lane.
#[inline(always)]
fn add(lanes: &mut [f32; LANES], values: &Group) {
    for part in values.chunks_exact(LANES) {
        for l in 0..LANES {
            lanes[l] += part[l];
        }
    }
}

/// The gradient with respect to z, given that of the stage's value, `grad`. `sums` has room for all rows.
pub fn backward(
    stage: Stage,
    z: Read<'_>,
    grad: Read<'_>,
    keep: Keep<'_>,
    first_row: usize,
    out: Written<'_>,
    sums: &mut [Sums],
) {
    let (layout, rows) = (z.1, z.1.height);
    let target = Shared::new(out.0);
    sums[..layout.batch * rows].par_iter_mut().with_min_len(4).enumerate().for_each(|(i, sums)| {
        let (image, row) = (i / rows, i % rows);
        let z = &z.0[layout.offset(image, row)..][..layout.values()];
        let g = &grad.0[grad.1.offset(image, row)..][..layout.values()];
        // SAFETY: every task writes a row of its own.
        let out = unsafe { target.part(out.1.offset(image, row), out.1.values()) };
        let step = stage.step.unwrap_or(NO_STEP);
        *sums = sums_of(specialize!(stage, ACTIVATION, QUANTIZED => vectorize(
            #[inline(always)]
            || backward_row(ACTIVATION, QUANTIZED, &step, (z, g), keep, first_row + i, out)
        )));
    });
}

#[inline(always)]
fn backward_row(
    activation: Option<Activation>,
    quantized: bool,
    step: &Step,
    (z, grad): (&[f32], &[f32]),
    keep: Keep<'_>,
    row: usize,
    out: &mut [f32],
) -> Lanes {
    let mut lanes = [[0.0; LANES]; 3];
    for (group, at, n) in groups(row, z.len()) {
        let choices = choose(keep, group, row * z.len() + at, n);
        let (zs, mut gs) = (load(&z[at..at + n]), load(&grad[at..at + n]));
        let (mut scale, mut zero_point) = ([0.0; GROUP], [0.0; GROUP]);
        for j in 0..GROUP {
            let x = apply(activation, zs[j]);
            let [dz, ds, dzp] = value_backward(activation, quantized & choices[j], zs[j], x, gs[j], step);
            gs[j] = dz;
            scale[j] = ds;
            zero_point[j] = dzp;
        }
        add(&mut lanes[0], &scale);
        add(&mut lanes[1], &zero_point);
        out[at..at + n].copy_from_slice(&gs[..n]);
    }
    lanes
}

/// The unit's end: the value of the stage is compared with `target`, and the gradient of `factor` times
/// the sum of squared errors with respect to `z + shortcut` is written. `sums` has room for all rows.
#[allow(clippy::too_many_arguments)]
pub fn end(
    stage: Stage,
    z: Read<'_>,
    shortcut: Option<Read<'_>>,
    target: Read<'_>,
    factor: f32,
    keep: Keep<'_>,
    first_row: usize,
    out: Written<'_>,
    sums: &mut [Sums],
) {
    let (layout, rows) = (z.1, z.1.height);
    let written = Shared::new(out.0);
    sums[..layout.batch * rows].par_iter_mut().with_min_len(4).enumerate().for_each(|(i, sums)| {
        let (image, row) = (i / rows, i % rows);
        let z = &z.0[layout.offset(image, row)..][..layout.values()];
        let shortcut = shortcut.map(|(s, l)| &s[l.offset(image, row)..][..l.values()]);
        let want = &target.0[target.1.offset(image, row)..][..layout.values()];
        // SAFETY: every task writes a row of its own.
        let out = unsafe { written.part(out.1.offset(image, row), out.1.values()) };
        let step = stage.step.unwrap_or(NO_STEP);
        *sums = sums_of(specialize!(stage, ACTIVATION, QUANTIZED => vectorize(
            #[inline(always)]
            || end_row(ACTIVATION, QUANTIZED, &step, (z, shortcut, want), factor, keep, first_row + i, out)
        )));
    });
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn end_row(
    activation: Option<Activation>,
    quantized: bool,
    step: &Step,
    (z, shortcut, target): (&[f32], Option<&[f32]>, &[f32]),
    factor: f32,
    keep: Keep<'_>,
    row: usize,
    out: &mut [f32],
) -> Lanes {
    let mut lanes = [[0.0; LANES]; 3];
    for (group, at, n) in groups(row, z.len()) {
        let choices = choose(keep, group, row * z.len() + at, n);
        let mut zs = load(&z[at..at + n]);
        if let Some(shortcut) = shortcut {
            let added = load(&shortcut[at..at + n]);
            for j in 0..GROUP {
                zs[j] += added[j];
            }
        }
        let mut want = [0.0; GROUP];
        want[..n].copy_from_slice(&target[at..at + n]);
        // Beyond the row the value is that of 0: no error.
        for w in &mut want[n..] {
            let x = apply(activation, 0.0);
            *w = if quantized { quantize(x, step).0 * step.scale } else { x };
        }
        let (mut gradient, mut scale, mut zero_point, mut loss) =
            ([0.0; GROUP], [0.0; GROUP], [0.0; GROUP], [0.0; GROUP]);
        for j in 0..GROUP {
            let x = apply(activation, zs[j]);
            let q = quantize(x, step).0 * step.scale;
            let rounded = quantized & choices[j];
            let difference = (if rounded { q } else { x }) - want[j];
            let g = 2.0 * factor * difference;
            let [dz, ds, dzp] = value_backward(activation, rounded, zs[j], x, g, step);
            gradient[j] = dz;
            scale[j] = ds;
            zero_point[j] = dzp;
            loss[j] = difference * difference;
        }
        if n < GROUP {
            // Where the choice beyond the row was the other one.
            scale[n..].fill(0.0);
            zero_point[n..].fill(0.0);
            loss[n..].fill(0.0);
        }
        add(&mut lanes[0], &scale);
        add(&mut lanes[1], &zero_point);
        add(&mut lanes[2], &loss);
        out[at..at + n].copy_from_slice(&gradient[..n]);
    }
    lanes
}

/// One value of each pair, row by row: `out` has the full-precision values, and takes the quantized ones
/// where they are kept. Both are images of the same layout.
pub fn mix(quantized: &[f32], keep: Keep<'_>, first_row: usize, (out, layout): Written<'_>) {
    let rows = layout.height;
    let target = Shared::new(out);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let at = layout.offset(i / rows, i % rows);
        let q = &quantized[at..][..layout.values()];
        // SAFETY: every task writes a row of its own.
        let out = unsafe { target.part(at, layout.values()) };
        vectorize(
            #[inline(always)]
            || mix_row(q, keep, first_row + i, out),
        );
    });
}

#[inline(always)]
fn mix_row(quantized: &[f32], keep: Keep<'_>, row: usize, out: &mut [f32]) {
    for (group, at, n) in groups(row, quantized.len()) {
        let choices = choose(keep, group, row * quantized.len() + at, n);
        let (q, mut values) = (load(&quantized[at..at + n]), load(&out[at..at + n]));
        for j in 0..GROUP {
            // Both values by hand: a branch would stop the wide instructions.
            let mask = u32::from(choices[j]).wrapping_neg();
            values[j] = f32::from_bits((q[j].to_bits() & mask) | (values[j].to_bits() & !mask));
        }
        out[at..at + n].copy_from_slice(&values[..n]);
    }
}
