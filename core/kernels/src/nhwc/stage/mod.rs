//! What follows a convolution of a unit, in one pass over the values: activation function, quantizer and drop;
//! also the addition of a shortcut before them, and the loss at the end of a unit.

mod draw;
mod function;
mod grid;
mod group;
#[cfg(test)]
mod tests;

use super::layout::Layout;
pub use super::layout::{Read, Written};
use super::parts::Parts;
use crate::activation::Activation;
use crate::drop::{Choices, Mixing, GROUP};
use crate::simd::vectorize;
use draw::{values_of, Choose, Draw, Recall, Record, Row, Weigh};
pub use function::{Bounds, Function};
pub use grid::TensorGrid;
use group::{Lanes, Mix, PreparedGrid};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The operations after a convolution that gave `z`: `drop(fake_quantize(activation(z + shortcut)))`. `B` stands for the
/// bounds of a clip, which the functions below read as [`Bounds`].
#[derive(Debug, Clone, Copy)]
pub struct Stage<B> {
    /// The activation function, if there is one.
    pub activation: Option<Function<B>>,
    /// The quantizer's grid, if there is one.
    pub grid: Option<TensorGrid>,
}

impl<B> Stage<B> {
    /// The same stage with the bounds of its clip as another type.
    ///
    /// # Errors
    /// Those of `bounds`.
    pub fn try_map<C, E>(self, bounds: impl FnOnce(B) -> Result<C, E>) -> Result<Stage<C>, E> {
        let activation = self.activation.map(|function| function.try_map(bounds)).transpose()?;
        Ok(Stage { activation, grid: self.grid })
    }
}

impl Stage<&Bounds> {
    /// Checks that a clip has a bound for each channel of what it is applied to.
    fn check(&self, values: Layout) {
        if let Some(Function::Clip(bounds)) = self.activation {
            assert_eq!(bounds.channels(), values.channels, "bounds of a clip");
        }
    }
}

/// What the rows of a stage add to the gradients of scale and zero point, and to the loss.
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

/// The target values of each image, laid out as a batch of one image.
pub type Targets<'a> = (&'a (dyn Fn(usize) -> &'a [f32] + Sync), Layout);

/// Evaluates `body` for the widest vectors, with activation function and quantizer as constants where they are common, so
/// that the loops do not branch on them.
macro_rules! specialize {
    ($stage:expr, $activation:ident, $quantized:ident => $body:expr) => {
        match $stage.activation {
            None => specialize!(@ both $stage, $activation = None, $quantized, $body),
            Some(Function::Activation(Activation::Relu)) => {
                specialize!(@ both $stage, $activation = Some(Function::Activation(Activation::Relu)), $quantized, $body)
            }
            Some(Function::Activation(Activation::Relu6)) => {
                specialize!(@ both $stage, $activation = Some(Function::Activation(Activation::Relu6)), $quantized, $body)
            }
            Some(Function::Activation(Activation::Silu)) => {
                specialize!(@ both $stage, $activation = Some(Function::Activation(Activation::Silu)), $quantized, $body)
            }
            Some(Function::Activation(Activation::HardSwish)) => {
                specialize!(@ both $stage, $activation = Some(Function::Activation(Activation::HardSwish)), $quantized, $body)
            }
            Some(Function::Activation(Activation::Gelu)) => {
                specialize!(@ both $stage, $activation = Some(Function::Activation(Activation::Gelu)), $quantized, $body)
            }
            Some(Function::Clip(bounds)) => {
                specialize!(@ both $stage, $activation = Some(Function::Clip(bounds)), $quantized, $body)
            }
            activation => specialize!(@ both $stage, $activation = activation, $quantized, $body),
        }
    };
    (@ both $stage:expr, $activation:ident = $f:expr, $quantized:ident, $body:expr) => {
        match $stage.grid.is_some() {
            true => specialize!(@ $activation = $f, $quantized = true, $body),
            false => specialize!(@ $activation = $f, $quantized = false, $body),
        }
    };
    // The values are named inside of the closure: what a closure captures is not a constant in it.
    (@ $activation:ident = $f:expr, $quantized:ident = $q:expr, $body:expr) => {
        vectorize(
            #[inline(always)]
            || {
                let ($activation, $quantized): (Option<Function<&Bounds>>, bool) = ($f, $q);
                $body
            },
        )
    };
}

/// Number of groups in a row of images of this layout; each has its [`Choices`].
pub fn groups_of_row(layout: Layout) -> usize {
    layout.values().div_ceil(GROUP)
}

/// The activation function of the values of group `group` of a row.
#[inline(always)]
fn of_group(activation: Option<Function<&Bounds>>, group: usize) -> Option<Function<&group::Group>> {
    Some(match activation? {
        Function::Activation(activation) => Function::Activation(activation),
        Function::Clip(bounds) => Function::Clip(bounds.group(group)),
    })
}

fn sums_of(lanes: Lanes) -> Sums {
    let [scale, zero_point, loss] = lanes.map(|lanes| lanes.iter().map(|v| f64::from(*v)).sum());
    Sums { scale, zero_point, loss }
}

/// The stage's value at `z`, to which the shortcut is added. `first_row` counts the rows of the images before
/// these; `kept` has room for the choices of all rows and takes them, unless values are mixed with weights.
pub fn forward(
    stage: Stage<&Bounds>,
    z: Read<'_>,
    shortcut: Option<Read<'_>>,
    (mixing, first_row): (Mixing<'_>, usize),
    out: Written<'_>,
    kept: &mut [Choices],
) {
    let (layout, rows) = (z.1, z.1.height);
    stage.check(layout);
    let groups = groups_of_row(layout);
    let target = Parts::new(out.0);
    let grid = PreparedGrid::new(stage.grid);
    kept[..layout.batch * rows * groups].par_chunks_exact_mut(groups).with_min_len(4).enumerate().for_each(
        |(i, kept)| {
            let (image, row) = (i / rows, i % rows);
            let values = (row_of(z, image, row), shortcut.map(|s| row_of(s, image, row)));
            // SAFETY: every task writes a row of its own.
            let out = unsafe { target.take(out.1.offset(image, row), out.1.values()) };
            let row = Row { number: first_row + i, len: layout.values() };
            match mixing {
                Mixing::Chosen(keep) => {
                    forward_of_stage(stage, &grid, values, Record(Choose(keep, row), kept), out);
                }
                Mixing::Weighted(stream) => forward_of_stage(stage, &grid, values, Weigh(stream, row), out),
            }
        },
    );
}

#[inline(always)]
fn forward_of_stage(
    stage: Stage<&Bounds>,
    grid: &PreparedGrid,
    (z, shortcut): (&[f32], Option<&[f32]>),
    draw: impl Draw,
    out: &mut [f32],
) {
    // Two calls, so that the loops do not branch on the shortcut.
    specialize!(stage, activation, quantized => match shortcut {
        Some(_) => forward_row(activation, quantized, grid, (z, shortcut), draw, out),
        None => forward_row(activation, quantized, grid, (z, None), draw, out),
    });
}

/// The values of a row of an image.
#[inline(always)]
fn row_of((values, layout): Read<'_>, image: usize, row: usize) -> &[f32] {
    &values[layout.offset(image, row)..][..layout.values()]
}

#[inline(always)]
fn forward_row(
    activation: Option<Function<&Bounds>>,
    quantized: bool,
    grid: &PreparedGrid,
    (z, shortcut): (&[f32], Option<&[f32]>),
    mut draw: impl Draw,
    out: &mut [f32],
) {
    for group in 0..z.len().div_ceil(GROUP) {
        let (mix, values) = (draw.draw(group), values_of(group, z.len()));
        let [mut room, mut shortcut_room] = [[0.0; GROUP]; 2];
        let z = group::whole(&z[values.clone()], &mut room);
        let shortcut = shortcut.map(|s| group::whole(&s[values.clone()], &mut shortcut_room));
        group::in_place(
            &mut out[values],
            #[inline(always)]
            |out| group::forward(of_group(activation, group), quantized, grid, &mix, (z, shortcut), out),
        );
    }
}

/// The stage's value without drop, in place. The shortcut is added to `values` first.
pub fn apply(stage: Stage<&Bounds>, shortcut: Option<Read<'_>>, (values, layout): Written<'_>) {
    stage.check(layout);
    let rows = layout.height;
    let target = Parts::new(values);
    let grid = PreparedGrid::new(stage.grid);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        let shortcut = shortcut.map(|s| row_of(s, image, row));
        // SAFETY: every task writes a row of its own.
        let values = unsafe { target.take(layout.offset(image, row), layout.values()) };
        specialize!(stage, activation, quantized => apply_row(activation, quantized, &grid, shortcut, values));
    });
}

#[inline(always)]
fn apply_row(
    activation: Option<Function<&Bounds>>,
    quantized: bool,
    grid: &PreparedGrid,
    shortcut: Option<&[f32]>,
    values: &mut [f32],
) {
    if let Some(shortcut) = shortcut {
        for (v, s) in values.iter_mut().zip(shortcut) {
            *v += s;
        }
    }
    for (group, values) in values.chunks_mut(GROUP).enumerate() {
        group::in_place(
            values,
            #[inline(always)]
            |values| group::apply(of_group(activation, group), quantized, grid, values),
        );
    }
}

/// The gradient with respect to z, which is that of the shortcut too: `gradient` has that of the stage's value,
/// and takes it. `mixing`, `first_row` and `kept` are those of [`forward`]; `sums` has room for all rows.
pub fn backward(
    stage: Stage<&Bounds>,
    z: Read<'_>,
    shortcut: Option<Read<'_>>,
    (mixing, first_row): (Mixing<'_>, usize),
    kept: &[Choices],
    gradient: Written<'_>,
    sums: &mut [Sums],
) {
    let (layout, rows) = (z.1, z.1.height);
    stage.check(layout);
    let groups = groups_of_row(layout);
    let target = Parts::new(gradient.0);
    let grid = PreparedGrid::new(stage.grid);
    sums[..layout.batch * rows].par_iter_mut().with_min_len(4).enumerate().for_each(|(i, sums)| {
        let (image, row) = (i / rows, i % rows);
        let values = (row_of(z, image, row), shortcut.map(|s| row_of(s, image, row)));
        let kept = &kept[i * groups..][..groups];
        // SAFETY: every task writes a row of its own.
        let gradient = unsafe { target.take(gradient.1.offset(image, row), gradient.1.values()) };
        let row = Row { number: first_row + i, len: layout.values() };
        *sums = sums_of(match mixing {
            Mixing::Chosen(_) => backward_of_stage(stage, &grid, values, Recall(kept), gradient),
            Mixing::Weighted(stream) => backward_of_stage(stage, &grid, values, Weigh(stream, row), gradient),
        });
    });
}

#[inline(always)]
fn backward_of_stage(
    stage: Stage<&Bounds>,
    grid: &PreparedGrid,
    (z, shortcut): (&[f32], Option<&[f32]>),
    draw: impl Draw,
    gradient: &mut [f32],
) -> Lanes {
    // Two calls, so that the loops do not branch on the shortcut.
    specialize!(stage, activation, quantized => match shortcut {
        Some(_) => backward_row(activation, quantized, grid, (z, shortcut), draw, gradient),
        None => backward_row(activation, quantized, grid, (z, None), draw, gradient),
    })
}

#[inline(always)]
fn backward_row(
    activation: Option<Function<&Bounds>>,
    quantized: bool,
    grid: &PreparedGrid,
    (z, shortcut): (&[f32], Option<&[f32]>),
    mut draw: impl Draw,
    gradient: &mut [f32],
) -> Lanes {
    let mut lanes = Lanes::default();
    for (group, (gradient, z)) in gradient.chunks_mut(GROUP).zip(z.chunks(GROUP)).enumerate() {
        let mix = draw.draw(group);
        let [mut room, mut shortcut_room] = [[0.0; GROUP]; 2];
        let shortcut = shortcut.map(|s| group::whole(&s[group * GROUP..][..z.len()], &mut shortcut_room));
        let z = (group::whole(z, &mut room), shortcut);
        group::in_place(
            gradient,
            #[inline(always)]
            |gradient| group::backward(of_group(activation, group), quantized, grid, &mix, z, gradient, &mut lanes),
        );
    }
    lanes
}

/// The end of a unit: compares the value of the stage with `target`, and writes the gradient of a factor times the
/// sum of squared errors with respect to `z + shortcut`. Both are compared as they are when clipped to a range; the gradient
/// passes the clipping. `loss` is the factor and the range. `sums` has room for all rows.
#[allow(clippy::too_many_arguments)]
pub fn end(
    stage: Stage<&Bounds>,
    z: Read<'_>,
    shortcut: Option<Read<'_>>,
    (target, target_layout): Targets<'_>,
    loss: (f32, [f32; 2]),
    (mixing, first_row): (Mixing<'_>, usize),
    out: Written<'_>,
    sums: &mut [Sums],
) {
    let (layout, rows) = (z.1, z.1.height);
    stage.check(layout);
    let written = Parts::new(out.0);
    let grid = PreparedGrid::new(stage.grid);
    sums[..layout.batch * rows].par_iter_mut().with_min_len(4).enumerate().for_each(|(i, sums)| {
        let (image, row) = (i / rows, i % rows);
        let want = &target(image)[target_layout.offset(0, row)..][..layout.values()];
        let values = (row_of(z, image, row), shortcut.map(|s| row_of(s, image, row)), want);
        // SAFETY: every task writes a row of its own.
        let out = unsafe { written.take(out.1.offset(image, row), out.1.values()) };
        let row = Row { number: first_row + i, len: layout.values() };
        *sums = sums_of(match mixing {
            Mixing::Chosen(keep) => end_of_stage(stage, &grid, values, loss, Choose(keep, row), out),
            Mixing::Weighted(stream) => end_of_stage(stage, &grid, values, loss, Weigh(stream, row), out),
        });
    });
}

#[inline(always)]
fn end_of_stage(
    stage: Stage<&Bounds>,
    grid: &PreparedGrid,
    values: (&[f32], Option<&[f32]>, &[f32]),
    loss: (f32, [f32; 2]),
    draw: impl Draw,
    out: &mut [f32],
) -> Lanes {
    specialize!(stage, activation, quantized => end_row(activation, quantized, grid, values, loss, draw, out))
}

#[inline(always)]
fn end_row(
    activation: Option<Function<&Bounds>>,
    quantized: bool,
    grid: &PreparedGrid,
    (z, shortcut, target): (&[f32], Option<&[f32]>, &[f32]),
    loss: (f32, [f32; 2]),
    mut draw: impl Draw,
    out: &mut [f32],
) -> Lanes {
    let mut lanes = Lanes::default();
    for group in 0..z.len().div_ceil(GROUP) {
        let (mix, values) = (draw.draw(group), values_of(group, z.len()));
        let mut rooms = [[0.0; GROUP]; 3];
        let [z_room, shortcut_room, target_room] = &mut rooms;
        let used = values.len();
        let z = group::whole(&z[values.clone()], z_room);
        let target = group::whole(&target[values.clone()], target_room);
        let own = shortcut.map(|s| group::whole(&s[values.clone()], shortcut_room));
        group::in_place(
            &mut out[values],
            #[inline(always)]
            |out| {
                let activation = of_group(activation, group);
                // Two calls, so that the loops do not branch on the shortcut.
                match own {
                    Some(_) => {
                        group::end(activation, quantized, grid, &mix, (z, own, target), loss, used, &mut lanes, out)
                    }
                    None => {
                        group::end(activation, quantized, grid, &mix, (z, None, target), loss, used, &mut lanes, out)
                    }
                }
            },
        );
    }
    lanes
}

/// The mix of quantized and full-precision values, row by row. `pair(i)` has both of image `i`, laid out as one image of
/// `from`.
pub fn mix<'a>(
    pair: &(dyn Fn(usize) -> [&'a [f32]; 2] + Sync),
    from: Layout,
    (mixing, first_row): (Mixing<'_>, usize),
    (out, layout): Written<'_>,
) {
    let rows = layout.height;
    let target = Parts::new(out);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        let pair = pair(image).map(|image| &image[from.offset(0, row)..][..from.values()]);
        // SAFETY: every task writes a row of its own.
        let out = unsafe { target.take(layout.offset(image, row), layout.values()) };
        let row = Row { number: first_row + i, len: layout.values() };
        match mixing {
            Mixing::Chosen(keep) => Arch::new().dispatch(MixRow { pair, draw: Choose(keep, row), out }),
            Mixing::Weighted(stream) => Arch::new().dispatch(MixRow { pair, draw: Weigh(stream, row), out }),
        }
    });
}

struct MixRow<'a, D> {
    pair: [&'a [f32]; 2],
    draw: D,
    out: &'a mut [f32],
}

impl<D: Draw> WithSimd for MixRow<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for group in 0..self.out.len().div_ceil(GROUP) {
            let (mix, values) = (self.draw.draw(group), values_of(group, self.out.len()));
            let mut rooms = [[0.0; GROUP]; 2];
            let [q_room, f_room] = &mut rooms;
            let q = group::whole(&self.pair[0][values.clone()], q_room);
            let f = group::whole(&self.pair[1][values.clone()], f_room);
            group::in_place(
                &mut self.out[values],
                #[inline(always)]
                |out| mix.mix(simd, q, f, out),
            );
        }
    }
}
