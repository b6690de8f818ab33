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
    activation.map_or(z, |a| a.value(z))
}

#[inline(always)]
fn slope(activation: Option<Activation>, z: f32) -> f32 {
    activation.map_or(1.0, |a| a.derivative(z))
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
            || for_each_part(keep, first_row + i, z.len(), |at, keep, n| {
                let (z, out) = (&z[at..at + n], &mut out[at..at + n]);
                for j in 0..n {
                    let x = apply(ACTIVATION, z[j]);
                    let q = quantize(x, &step).0 * step.scale;
                    out[j] = if QUANTIZED & keep[j] { q } else { x };
                }
            })
        ));
    });
}

/// Backward of one value: the gradient of z, and what it adds to those of scale and zero point.
#[inline(always)]
fn value_backward(
    activation: Option<Activation>,
    quantized: bool,
    z: f32,
    x: f32,
    g: f32,
    keep: bool,
    s: &Step,
) -> [f32; 3] {
    let (steps, t, inside) = quantize(x, s);
    let rounded = quantized & keep;
    let passes = !rounded | inside;
    let scale = if inside { steps - t } else { steps };
    let dz = if passes { g * slope(activation, z) } else { 0.0 };
    [dz, if rounded { g * scale } else { 0.0 }, if rounded & !inside { -g * s.scale } else { 0.0 }]
}

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// Sums of one row in lanes.
#[derive(Clone, Copy)]
struct Lanes([[f32; LANES]; 3]);

impl Lanes {
    const ZERO: Self = Self([[0.0; LANES]; 3]);

    fn sums(self) -> Sums {
        let [scale, zero_point, loss] = self.0.map(|lanes| lanes.iter().map(|v| f64::from(*v)).sum());
        Sums { scale, zero_point, loss }
    }
}

/// The gradient with respect to z, given that of the stage's value, `grad`.
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
        let mut lanes = Lanes::ZERO;
        specialize!(stage, ACTIVATION, QUANTIZED => vectorize(
            #[inline(always)]
            || for_each_part(keep, first_row + i, z.len(), |at, keep, n| {
                let mut parts = [[0.0; GROUP]; 2];
                let (z, g, out) = (&z[at..at + n], &g[at..at + n], &mut out[at..at + n]);
                for j in 0..n {
                    let x = apply(ACTIVATION, z[j]);
                    let [dz, ds, dzp] = value_backward(ACTIVATION, QUANTIZED, z[j], x, g[j], keep[j], &step);
                    (out[j], parts[0][j], parts[1][j]) = (dz, ds, dzp);
                }
                for (lanes, part) in lanes.0.iter_mut().zip(&parts) {
                    add(lanes, part);
                }
            })
        ));
        *sums = lanes.sums();
    });
}

/// Adds a group of values lane by lane.
#[inline(always)]
fn add(lanes: &mut [f32; LANES], values: &[f32; GROUP]) {
    for part in values.chunks_exact(LANES) {
        for (lane, v) in lanes.iter_mut().zip(part) {
            *lane += v;
        }
    }
}

/// The unit's end: the value of the stage is compared with `target` (both rows of the same images),
/// and the gradient of `factor` times the sum of squared errors with respect to `z + shortcut` is
/// written.
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
        let mut lanes = Lanes::ZERO;
        specialize!(stage, ACTIVATION, QUANTIZED => vectorize(
            #[inline(always)]
            || for_each_part(keep, first_row + i, z.len(), |at, keep, n| {
                let mut parts = [[0.0; GROUP]; 3];
                let mut sum = [0.0; GROUP];
                sum[..n].copy_from_slice(&z[at..at + n]);
                if let Some(shortcut) = shortcut {
                    for (s, v) in sum[..n].iter_mut().zip(&shortcut[at..at + n]) {
                        *s += v;
                    }
                }
                let (want, out) = (&want[at..at + n], &mut out[at..at + n]);
                for j in 0..n {
                    let x = apply(ACTIVATION, sum[j]);
                    let q = quantize(x, &step).0 * step.scale;
                    let value = if QUANTIZED & keep[j] { q } else { x };
                    let difference = value - want[j];
                    let g = 2.0 * factor * difference;
                    let [dz, ds, dzp] = value_backward(ACTIVATION, QUANTIZED, sum[j], x, g, keep[j], &step);
                    (out[j], parts[0][j], parts[1][j], parts[2][j]) = (dz, ds, dzp, difference * difference);
                }
                for (lanes, part) in lanes.0.iter_mut().zip(&parts) {
                    add(lanes, part);
                }
            })
        ));
        *sums = lanes.sums();
    });
}

/// The unit's input: cached quantized and full-precision values of one image, as planes (C, H, W), mixed
/// element by element.
pub fn mix_planes(quantized: &[f32], full: &[f32], keep: Keep<'_>, first_row: usize, (out, layout): Written<'_>) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    let len = height * layout.values();
    assert!(quantized.len() == len && full.len() == len, "planes of {len} values");
    let all = matches!(keep, Keep::All);
    let base = if all { quantized } else { full };
    let target = Shared::new(out);
    (0..height).into_par_iter().with_min_len(4).for_each(|row| {
        // SAFETY: every task writes a row of its own.
        let out = unsafe { target.part(layout.offset(0, row), layout.values()) };
        let line = |planes: &[f32], c: usize, x: usize| planes[(c * height + row) * width + x];
        vectorize(
            #[inline(always)]
            || {
                for x in 0..width {
                    let out = &mut out[x * channels..][..channels];
                    for (c, o) in out.iter_mut().enumerate() {
                        *o = line(base, c, x);
                    }
                }
                if all {
                    return;
                }
                let (mut c, mut x) = (0, 0);
                for_each_part(keep, first_row + row, out.len(), |at, keep, n| {
                    for (j, o) in out[at..at + n].iter_mut().enumerate() {
                        let q = line(quantized, c, x);
                        *o = if keep[j] { q } else { *o };
                        c += 1;
                        if c == channels {
                            (c, x) = (0, x + 1);
                        }
                    }
                });
            },
        );
    });
}

/// Calls `body(offset, keep, count)` for consecutive parts of a row of `len` values, [`GROUP`] long but
/// for the last. `row` counts the rows of all images.
#[inline(always)]
fn for_each_part(keep: Keep<'_>, row: usize, len: usize, mut body: impl FnMut(usize, &[bool; GROUP], usize)) {
    let groups = len.div_ceil(GROUP);
    for group in 0..groups {
        let (at, mut part) = (group * GROUP, [true; GROUP]);
        let count = GROUP.min(len - at);
        keep.group(row * groups + group, row * len + at, &mut part[..count]);
        body(at, &part, count);
    }
}
