//! Direct convolution and its gradient with respect to the input: both compute rows of pixels from taps.

use super::layout::Layout;
use super::pack::{PackedShape, TILE};
use super::pointer::Interleaved;
use super::tile::{row, Edge, RowTile, Tap, SHORT_ROW};
use crate::conv::Conv2dShape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Weights of at most so many bytes stay in the L2 cache while rows are computed one by one. Of larger weights, each
/// tile is used for all rows of several images before the next.
const RESIDENT: usize = 400_000;
/// Number of parts into which the batch is divided where weights are large.
const PARTS: usize = 8;
/// Pixels of a row where the rows of images do not matter: a multiple of the largest register tile, and short enough
/// for many tasks.
fn flat_row(pixels: usize) -> usize {
    (pixels / 16).next_multiple_of(14).clamp(14, 112)
}

/// One row of output pixels of an image.
#[derive(Debug, Clone)]
struct Row {
    /// Position of the first pixel in the image that is read.
    at: usize,
    /// Elements between its pixels.
    step: usize,
    taps: Vec<Tap>,
    /// Position of the first pixel in the image that is written.
    out: usize,
    /// Elements between its pixels.
    out_step: usize,
    pixels: usize,
}

/// A convolution, or its gradient with respect to the input, planned for given layouts.
#[derive(Debug, Clone)]
pub struct RowPlan {
    weight: PackedShape,
    /// Elements that a tap reads: the channels of one pixel, or of all pixels under a row of the kernel where they
    /// follow each other in memory.
    run: usize,
    /// Images, and elements from one to the next.
    images: usize,
    image: usize,
    out_image: usize,
    rows: Vec<Row>,
}

impl RowPlan {
    /// The convolution: reads `x`, whose border is at least the padding, and writes `out`.
    pub fn forward(shape: &Conv2dShape, x: Layout, out: Layout) -> Self {
        let weight = PackedShape::of(shape);
        let whole = shape.is_pointwise() && x.border == 0 && out.border == 0;
        if whole {
            return Self::flat(weight, x, out);
        }
        let [top, left] = [shape.padding.top as isize, shape.padding.left as isize];
        // The taps of a row of the kernel read pixels, and weights, that follow each other: they become one tap.
        let together = shape.groups == 1 && shape.dilation[1] == 1 && out.width != SHORT_ROW;
        let run = if together { shape.kernel[1] * weight.inputs } else { weight.inputs };
        let rows = (0..out.height).map(|r| {
            let first = (r * shape.stride[0]) as isize - top;
            let taps = taps(shape, |ky, kx| {
                let y = first + (ky * shape.dilation[0]) as isize;
                // Rows of the border are zero and add nothing.
                let inside = y >= 0 && y < x.height as isize && (kx == 0 || !together);
                inside.then_some([y, (kx * shape.dilation[1]) as isize - left])
            });
            Row {
                at: 0,
                step: shape.stride[1] * x.channels,
                taps: positions(taps, &weight, x, [out.width, shape.stride[1]]),
                out: out.offset(0, r),
                out_step: out.channels,
                pixels: out.width,
            }
        });
        Self { weight, run, images: out.batch, image: x.image(), out_image: out.image(), rows: rows.collect() }
            .positive()
    }

    /// The gradient with respect to the input: reads that of the output, `grad`, and writes `dx`. Its
    /// weights are those of [`exchange_channels`]; the border of `grad` is at least that of [`border_of_gradient`].
    pub fn backward_input(shape: &Conv2dShape, grad: Layout, dx: Layout) -> Self {
        let forward = PackedShape::of(shape);
        let weight = PackedShape { inputs: forward.outputs, outputs: forward.inputs, ..forward };
        let whole = shape.is_pointwise() && grad.border == 0 && dx.border == 0;
        if whole {
            return Self::flat(weight, grad, dx);
        }
        let [sy, sx] = shape.stride;
        let mut rows = Vec::new();
        // Pixels whose columns are equal modulo the stride have the same taps.
        for y in 0..dx.height {
            for phase in 0..sx.min(dx.width) {
                let taps = taps(shape, |ky, kx| {
                    let y = (y + shape.padding.top) as isize - (ky * shape.dilation[0]) as isize;
                    let x = (phase + shape.padding.left) as isize - (kx * shape.dilation[1]) as isize;
                    let (sy, sx) = (sy as isize, sx as isize);
                    let hit = y.rem_euclid(sy) == 0 && x.rem_euclid(sx) == 0;
                    let y = y.div_euclid(sy);
                    (hit && y >= 0 && y < grad.height as isize).then_some([y, x.div_euclid(sx)])
                });
                rows.push(Row {
                    at: 0,
                    step: grad.channels,
                    taps: positions(taps, &weight, grad, [(dx.width - phase).div_ceil(sx), 1]),
                    out: dx.offset(0, y) + phase * dx.channels,
                    out_step: sx * dx.channels,
                    pixels: (dx.width - phase).div_ceil(sx),
                });
            }
        }
        Self { weight, run: weight.inputs, images: dx.batch, image: grad.image(), out_image: dx.image(), rows }
            .positive()
    }

    /// A convolution of 1 x 1 without borders: the pixels of all images are one long row, which can be cut anywhere.
    fn flat(weight: PackedShape, x: Layout, out: Layout) -> Self {
        Self::rows_of(flat_row(x.batch * x.height * x.width), weight, x, out)
    }

    /// Rows of at most `most` pixels over all images.
    fn rows_of(most: usize, weight: PackedShape, x: Layout, out: Layout) -> Self {
        let pixels = x.batch * x.height * x.width;
        let rows = (0..pixels).step_by(most).map(|first| Row {
            at: first * x.channels,
            step: x.channels,
            taps: vec![Tap { image: 0, weight: 0, edge: Edge::None }],
            out: first * out.channels,
            out_step: out.channels,
            pixels: most.min(pixels - first),
        });
        Self { weight, run: weight.inputs, images: 1, image: x.len(), out_image: out.len(), rows: rows.collect() }
    }

    /// The product of every pixel of `x` with weights of one tap, group by group, as one row. Pixels may have unused
    /// channels after their values.
    pub(super) fn product(weight: PackedShape, x: Layout, out: Layout) -> Self {
        assert!(weight.kernel == [1, 1] && x.border == 0 && out.border == 0, "a product of all pixels");
        Self::rows_of(x.batch * x.height * x.width, weight, x, out)
    }

    /// Moves what the offsets of all taps of a row have in common into the position of the row.
    fn positive(mut self) -> Self {
        for row in &mut self.rows {
            let least = row.taps.iter().map(|t| t.image).min().unwrap_or(0).max(0);
            row.at = least as usize;
            row.taps.iter_mut().for_each(|t| t.image -= least);
        }
        self
    }

    /// Computes all images on the calling thread.
    pub(super) fn run_alone(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        assert_eq!(weight.len(), self.weight.len(), "weights");
        let (images, rows) = (0..self.images, 0..self.rows.len());
        let out = Interleaved::new(out);
        Arch::new().dispatch(Task { plan: self, x, weight, bias: None, out, images, rows, weights_first: true });
    }

    /// Computes all images. `bias` has one value for each lane of the packed weights.
    pub fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        assert_eq!(weight.len(), self.weight.len(), "weights");
        assert!(x.len() >= self.images * self.image && out.len() >= self.images * self.out_image, "images");
        let out = Interleaved::new(out);
        let task = |images: Range<usize>, rows: Range<usize>, weights_first: bool| {
            Arch::new().dispatch(Task { plan: self, x, weight, bias, out, images, rows, weights_first });
        };
        let rows = self.rows.len();
        // With one image, there is nothing to use each tile of large weights for either.
        if self.images == 1 || self.weight.len() * 4 <= RESIDENT {
            (0..self.images * rows).into_par_iter().for_each(|i| {
                task(i / rows..i / rows + 1, i % rows..i % rows + 1, false);
            });
        } else {
            let part = |i: usize| i * self.images / PARTS.min(self.images);
            (0..PARTS.min(self.images)).into_par_iter().for_each(|i| task(part(i)..part(i + 1), 0..rows, true));
        }
    }
}

/// The taps for which `place` gives a row and a column of the image, with their position in the kernel.
fn taps(shape: &Conv2dShape, place: impl Fn(usize, usize) -> Option<[isize; 2]>) -> Vec<([isize; 2], [usize; 2])> {
    let kernel = (0..shape.kernel[0]).flat_map(|ky| (0..shape.kernel[1]).map(move |kx| [ky, kx]));
    kernel.filter_map(|[ky, kx]| Some((place(ky, kx)?, [ky, kx]))).collect()
}

/// Taps as offsets from the beginning of an image, for rows of `pixels` pixels that are `apart` columns apart.
fn positions(
    taps: Vec<([isize; 2], [usize; 2])>,
    weight: &PackedShape,
    image: Layout,
    [pixels, apart]: [usize; 2],
) -> Vec<Tap> {
    let border = image.border as isize;
    let position = |[y, x]: [isize; 2]| (y + border) * image.row() as isize + (x + border) * image.channels as isize;
    let place = |[ky, kx]: [usize; 2]| (ky * weight.kernel[1] + kx) * weight.tap();
    let edge = |first: isize| match first + ((pixels - 1) * apart) as isize {
        _ if first < 0 => Edge::First,
        last if last >= image.width as isize => Edge::Last,
        _ => Edge::None,
    };
    taps.into_iter().map(|(at, k)| Tap { image: position(at), weight: place(k), edge: edge(at[1]) }).collect()
}

/// The border that the gradient of the output must have, in pixels, for the gradient of the input.
pub fn border_of_gradient(shape: &Conv2dShape) -> usize {
    // The rightmost and leftmost columns that a tap reaches from the input's columns.
    let reach = ((shape.kernel[1] - 1) * shape.dilation[1]) as isize - shape.padding.left as isize;
    let left = reach.max(0) as usize;
    let last = (shape.in_width - 1 + shape.padding.left) / shape.stride[1];
    let right = (last + 1).saturating_sub(shape.out_width());
    left.div_ceil(shape.stride[1]).max(right)
}

/// Packs weights again with input and output channels exchanged, as the gradient of the input reads them.
pub fn exchange_channels(shape: &Conv2dShape, weight: &[f32], out: &mut [f32]) {
    let from = PackedShape::of(shape);
    let to = PackedShape { inputs: from.outputs, outputs: from.inputs, ..from };
    assert_eq!((weight.len(), out.len()), (from.len(), to.len()));
    out.par_chunks_mut(to.tap()).enumerate().for_each(|(i, out)| {
        let taps = to.kernel[0] * to.kernel[1];
        let (tile, tap) = (i / taps, i % taps);
        let (group, first) = (tile / to.tiles(), tile % to.tiles() * TILE);
        let lanes = TILE.min(to.outputs - first);
        for (o, line) in out.chunks_exact_mut(TILE).enumerate() {
            let at = from.at(group * from.outputs + o, first, tap / to.kernel[1], tap % to.kernel[1]);
            for (l, v) in line[..lanes].iter_mut().enumerate() {
                *v = weight[at + l * TILE];
            }
        }
    });
}

struct Task<'a> {
    plan: &'a RowPlan,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    out: Interleaved<'a>,
    images: Range<usize>,
    rows: Range<usize>,
    /// Use each tile of weights for all images and rows before the next.
    weights_first: bool,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let tiles = self.plan.weight.groups * self.plan.weight.tiles();
        if self.weights_first {
            for tile in 0..tiles {
                for image in self.images.clone() {
                    for row in self.rows.clone() {
                        self.row(simd, tile, image, row);
                    }
                }
            }
        } else {
            for image in self.images.clone() {
                for row in self.rows.clone() {
                    for tile in 0..tiles {
                        self.row(simd, tile, image, row);
                    }
                }
            }
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, tile: usize, image: usize, index: usize) {
        let (plan, shape) = (self.plan, &self.plan.weight);
        let r = &plan.rows[index];
        let (group, first) = (tile / shape.tiles(), tile % shape.tiles() * TILE);
        let lanes = TILE.min(shape.outputs - first);
        let out_at = image * plan.out_image + r.out + group * shape.outputs + first;
        // Rows of one image, phases of one row and tiles of one pixel write different elements; between them lie
        // those of others.
        row(
            simd,
            &RowTile {
                image: self.x,
                at: image * plan.image + r.at + group * shape.inputs,
                step: r.step,
                taps: &r.taps,
                inputs: plan.run,
                weight: &self.weight[tile * shape.tile()..][..shape.tile()],
                bias: self.bias.map(|b| &b[tile * TILE..][..TILE]),
                out: self.out,
                out_at,
                out_step: r.out_step,
                lanes,
                pixels: r.pixels,
            },
        );
    }
}
