//! Transformed weights and their gradient.

use super::super::layout::Layout;
use super::super::pack::PackedShape;
use super::super::pointer::Interleaved;
use super::super::rows::exchange_channels;
use super::super::weight::WeightPlan;
use super::transform::{ToTiles, Transform};
use super::{scratch, tile_layout, transformed_len, Slices, Tiles, FAR, INPUTS, NEAR};
use crate::conv::Conv2dShape;
use crate::simd::vectorize;
use pulp::Arch;
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of transformed images and gradients that one pass sums the products of.
const RESIDENT: usize = 300_000;
/// Least number of tiles of a pass, unless there are fewer in all.
const LEAST_TILES: usize = 112;
/// Elements of a line that one task transforms.
const PIECE: usize = 512;
/// Elements that are transformed side by side.
const SIDE: usize = 16;

type Lane = [f32; SIDE];

/// The reciprocal of what values at the points are divided by: the product of the distances from all other points.
const SCALE_NEAR: f32 = -1.0 / 1.5;
const SCALE_FAR: f32 = 1.0 / 6.0;

/// `G` times a column.
#[inline(always)]
fn spread(w: [Lane; 3]) -> [Lane; INPUTS] {
    let mut out = [w[0], [0.0; SIDE], [0.0; SIDE], [0.0; SIDE], [0.0; SIDE], w[2]];
    for l in 0..SIDE {
        let near = SCALE_NEAR * (w[0][l] + 0.5 * w[2][l]);
        let far = SCALE_FAR * (w[0][l] + 2.0 * w[2][l]);
        let (near_odd, far_odd) = (SCALE_NEAR * NEAR * w[1][l], SCALE_FAR * FAR * w[1][l]);
        out[1][l] = near + near_odd;
        out[2][l] = near - near_odd;
        out[3][l] = far + far_odd;
        out[4][l] = far - far_odd;
    }
    out
}

/// `G^T` times a column: the transposed of [`spread`].
#[inline(always)]
fn gather(u: [Lane; INPUTS]) -> [Lane; 3] {
    let mut out = [u[0], [0.0; SIDE], u[5]];
    for l in 0..SIDE {
        let (near, far) = (SCALE_NEAR * (u[1][l] + u[2][l]), SCALE_FAR * (u[3][l] + u[4][l]));
        out[0][l] += near + far;
        out[1][l] = SCALE_NEAR * NEAR * (u[1][l] - u[2][l]) + SCALE_FAR * FAR * (u[3][l] - u[4][l]);
        out[2][l] += 0.5 * near + 2.0 * far;
    }
    out
}

#[inline(always)]
fn lane(values: &[f32]) -> Lane {
    let mut lane = [0.0; SIDE];
    lane.copy_from_slice(&values[..SIDE]);
    lane
}

/// `G w G^T` of packed weights of 3 x 3: of the groups that are computed together by position, group, tile and
/// place in a tap, and so one slice of groups after the other.
pub fn transformed(shape: &PackedShape, weight: &[f32], out: &mut [f32]) {
    spread_all(shape, weight, out, false);
}

/// The transformed weights of [`WinogradPlan::backward_input`](super::WinogradPlan::backward_input), of
/// packed weights of `shape`. `exchanged` has room for the weights with inputs and outputs exchanged.
pub fn mirrored(shape: &Conv2dShape, weight: &[f32], exchanged: &mut [f32], out: &mut [f32]) {
    exchange_channels(shape, weight, exchanged);
    let packed = PackedShape::of(shape);
    spread_all(&PackedShape { inputs: packed.outputs, outputs: packed.inputs, ..packed }, exchanged, out, true);
}

/// Calls `task(tile, first element of the line)` for every piece of every tile's lines.
fn for_each_piece(shape: &PackedShape, task: impl Fn(usize, usize) + Sync) {
    let pieces = shape.tap().div_ceil(PIECE);
    (0..shape.groups * shape.tiles() * pieces)
        .into_par_iter()
        .with_min_len(4)
        .for_each(|i| task(i / pieces, i % pieces * PIECE));
}

fn spread_all(shape: &PackedShape, weight: &[f32], out: &mut [f32], mirror: bool) {
    assert_eq!((weight.len(), out.len()), (shape.len(), transformed_len(shape)));
    let slices = Slices::of(shape);
    let all = weight.par_chunks(slices.each.len()).zip(out.par_chunks_mut(slices.transformed_len()));
    all.for_each(|(weight, out)| spread_slice(&slices.each, weight, out, mirror));
}

// An index counts columns, across the rows of a block.
#[allow(clippy::needless_range_loop)]
fn spread_slice(shape: &PackedShape, weight: &[f32], out: &mut [f32], mirror: bool) {
    let (line, tiles) = (shape.tap(), shape.groups * shape.tiles());
    let out = Interleaved::new(out);
    for_each_piece(shape, |tile, first| {
        vectorize(
            #[inline(always)]
            || {
                for at in (first..line.min(first + PIECE)).step_by(SIDE) {
                    let mut rows = [[[0.0; SIDE]; INPUTS]; 3];
                    for (ky, row) in rows.iter_mut().enumerate() {
                        let mut taps = [[0.0; SIDE]; 3];
                        for (kx, tap) in taps.iter_mut().enumerate() {
                            let number = if mirror { 8 - (ky * 3 + kx) } else { ky * 3 + kx };
                            *tap = lane(&weight[(tile * 9 + number) * line + at..]);
                        }
                        *row = spread(taps);
                    }
                    for c in 0..INPUTS {
                        let column = spread([rows[0][c], rows[1][c], rows[2][c]]);
                        for (r, value) in column.iter().enumerate() {
                            // SAFETY: every task writes pieces of lines of its own.
                            unsafe { out.at(((r * INPUTS + c) * tiles + tile) * line + at, SIDE).store_array(value) };
                        }
                    }
                }
            },
        );
    });
}

/// `G^T dU G`: the gradient of packed weights, from that of the transformed ones.
pub fn gradient_of_weight(shape: &PackedShape, transformed: &[f32], out: &mut [f32]) {
    assert_eq!((transformed.len(), out.len()), (transformed_len(shape), shape.len()));
    let slices = Slices::of(shape);
    let all = transformed.par_chunks(slices.transformed_len()).zip(out.par_chunks_mut(slices.each.len()));
    all.for_each(|(transformed, out)| gradient_of_slice(&slices.each, transformed, out));
}

#[allow(clippy::needless_range_loop)]
fn gradient_of_slice(shape: &PackedShape, transformed: &[f32], out: &mut [f32]) {
    let (line, tiles) = (shape.tap(), shape.groups * shape.tiles());
    let out = Interleaved::new(out);
    for_each_piece(shape, |tile, first| {
        vectorize(
            #[inline(always)]
            || {
                for at in (first..line.min(first + PIECE)).step_by(SIDE) {
                    let mut rows = [[[0.0; SIDE]; 3]; INPUTS];
                    for (r, row) in rows.iter_mut().enumerate() {
                        let mut positions = [[0.0; SIDE]; INPUTS];
                        for (c, value) in positions.iter_mut().enumerate() {
                            *value = lane(&transformed[((r * INPUTS + c) * tiles + tile) * line + at..]);
                        }
                        *row = gather(positions);
                    }
                    for kx in 0..3 {
                        let column = gather(std::array::from_fn(
                            #[inline(always)]
                            |r| rows[r][kx],
                        ));
                        for (ky, value) in column.iter().enumerate() {
                            // SAFETY: every task writes pieces of lines of its own.
                            unsafe { out.at((tile * 9 + ky * 3 + kx) * line + at, SIDE).store_array(value) };
                        }
                    }
                }
            },
        );
    });
}

/// The gradient of transformed weights, planned for given layouts.
#[derive(Debug, Clone)]
pub struct WinogradWeightPlan {
    slices: Slices,
    tiles: Tiles,
    x: Layout,
    grad: Layout,
    /// The products of the positions of one row, for the tiles of one pass.
    product: WeightPlan,
    pass: usize,
    /// Sizes of the transformed inputs and gradients of a pass.
    sizes: [usize; 2],
}

impl WinogradWeightPlan {
    /// For a convolution that reads `x`, with the gradient `grad` of its output.
    pub fn new(shape: &Conv2dShape, x: Layout, grad: Layout) -> Self {
        assert!(x.border.min(grad.border) >= 1, "a border of one pixel is read");
        let tiles = Tiles::of(grad);
        let slices = Slices::of(&PackedShape::of(shape));
        let channels = [slices.inputs(0).len(), slices.outputs(0).len()];
        let each = INPUTS * (channels[0] + channels[1]) * size_of::<f32>();
        // Passes of almost the same size: a short one would load and store all sums for few products.
        let passes = (tiles.count() / (RESIDENT / each).max(LEAST_TILES)).max(1);
        let pass = tiles.count().div_ceil(passes);
        let [v, z] = channels.map(|channels| tile_layout(pass, INPUTS * channels));
        let products = Conv2dShape {
            batch: 1,
            in_channels: INPUTS * channels[0],
            in_height: 1,
            in_width: pass,
            out_channels: INPUTS * channels[1],
            kernel: [1, 1],
            padding: Default::default(),
            groups: INPUTS * slices.each.groups,
            ..*shape
        };
        let product = WeightPlan::new(&products, v, z);
        Self { slices, tiles, x, grad, product, pass, sizes: [v.len(), z.len()] }
    }

    /// Adds the gradient of the transformed weights to `out`, or replaces it where `replace` is set.
    pub fn run(&self, x: &[f32], grad: &[f32], out: &mut [f32], replace: bool) {
        assert!(x.len() >= self.x.len() && grad.len() >= self.grad.len(), "images");
        assert_eq!(out.len(), self.slices.count * self.slices.transformed_len(), "weights");
        // Rows of positions do not depend on each other. If their number is not a multiple of the number of threads,
        // threads divide the output channels of a row, and each transforms all that it reads.
        let (tiles, rows, threads) =
            (self.slices.each.tiles(), self.slices.count * INPUTS, rayon::current_num_threads());
        let parts = (1..tiles).find(|parts| (parts * rows).is_multiple_of(threads)).unwrap_or(tiles);
        out.par_chunks_mut(out.len() / rows).enumerate().for_each(|(row, out)| {
            let out = Interleaved::new(out);
            (0..parts).into_par_iter().for_each(|part| {
                let own = part * tiles / parts..(part + 1) * tiles / parts;
                self.row([row / INPUTS, row % INPUTS], own, (x, grad), out, replace);
            });
        });
    }

    /// One row of positions of some tiles of output channels of a slice.
    fn row(
        &self,
        [slice, row]: [usize; 2],
        own: Range<usize>,
        (x, grad): (&[f32], &[f32]),
        out: Interleaved<'_>,
        replace: bool,
    ) {
        let (tiles, row) = (self.tiles, Some(row));
        for first in (0..tiles.count()).step_by(self.pass) {
            let count = self.pass.min(tiles.count() - first);
            scratch(self.sizes, |[inputs, gradients]| {
                for (transform, image, channels, out) in [
                    (Transform::Input, (x, self.x), self.slices.inputs(slice), &mut *inputs),
                    (Transform::Gradient, (grad, self.grad), self.slices.outputs(slice), &mut *gradients),
                ] {
                    // Beyond the last tile, zeros add nothing.
                    let beyond = count * out.len() / self.pass;
                    out[beyond..].fill(0.0);
                    Arch::new().dispatch(ToTiles { transform, row, tiles, image, channels, first, count, out });
                }
                self.product.run_alone(inputs, gradients, out, own.clone(), replace && first == 0);
            });
        }
    }
}
