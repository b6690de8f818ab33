//! Winograd's F(4 x 4, 3 x 3): convolutions of 3 x 3 and stride 1 with 36 products where the direct
//! form has 144.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1. An
//! image is cut into tiles of 4 x 4 outputs, each of which reads 6 x 6 inputs `d`. With
//! `V = B^T d B` and `U = G w G^T` the outputs are `A^T [sum over inputs of U * V] A`: for each of the 36
//! positions a product of matrices, (tiles x inputs) times (inputs x outputs). The gradient of U is
//! `V * Z` with `Z = A grad A^T` (the transposed maps), summed over tiles; that of the weight is
//! `G^T dU G`. The gradient of the input is the convolution of `grad` with the mirrored weight.
//!
//! The maps evaluate polynomials at 0, 1/sqrt 2, -1/sqrt 2, sqrt 2, -sqrt 2 and infinity (the construction of
//! Toom and Cook, as in Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
//! Deep Neural Networks", ACM TOMS 46(4), 2020). With these points sums are off by about twice as much as in the
//! direct form; with the usual 0, 1, -1, 2, -2 it would be more than four times.
//!
//! The products are those of a convolution of 1 x 1 with 36 groups, whose pixels are tiles: the plans of
//! direct convolutions compute them.

mod rows;
mod transform;
mod weight;

pub use rows::WinogradPlan;
pub use weight::{gradient_of_weight, mirrored, transformed, WinogradWeightPlan};

use super::buffer::Buffer;
use super::layout::Layout;
use super::pack::PackedShape;
use crate::conv::{Conv2dShape, Padding};
use std::cell::RefCell;
use std::ops::Range;

/// Outputs of a tile in each direction.
const OUTPUTS: usize = 4;
/// Inputs of a tile in each direction.
const INPUTS: usize = OUTPUTS + 2;
/// Positions of a tile.
const POSITIONS: usize = INPUTS * INPUTS;
/// The finite points other than zero; each is used with both signs.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
const FAR: f32 = std::f32::consts::SQRT_2;
/// Unused elements between the values of a tile and those of the next: tiles whose distance is a power of two would
/// compete for the same sets of the L1 cache.
const GAP: usize = 16;
/// Least number of channels of a group: with fewer, the transforms cost more than the products save.
const LEAST_CHANNELS: usize = 16;
/// Least height and width: on smaller images the direct form leaves out most products, because they are with zeros of
/// the border.
const LEAST_SIZE: usize = 3;
/// Greatest size of the transformed weights in bytes (they are four times as large as the weights): that of 512 x 512
/// channels.
const MOST_WEIGHTS: usize = 40_000_000;

/// Elements of all transformed weights, for a packed weight of 3 x 3.
pub fn transformed_len(weight: &PackedShape) -> usize {
    transformed_shape(weight).len()
}

/// Whether a convolution can be computed in this form and is faster so, whatever the number of images.
pub fn winograd_applies(shape: &Conv2dShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.padding == Padding::all(1)
        && shape.in_channels.min(shape.out_channels) >= LEAST_CHANNELS * shape.groups
        && shape.in_height.min(shape.in_width) >= LEAST_SIZE
        && transformed_len(&PackedShape::of(shape)) * size_of::<f32>() <= MOST_WEIGHTS
}

/// Slices of the groups of a convolution. The groups of a slice are computed together, because their weights and values
/// fit the cache together. Their channels follow each other in a pixel, and so do their weights.
#[derive(Debug, Clone, Copy)]
struct Slices {
    /// The weights of one slice.
    each: PackedShape,
    count: usize,
}

impl Slices {
    /// Most channels of a slice that has several groups.
    const CHANNELS: usize = 64;

    fn of(weight: &PackedShape) -> Self {
        let fits = |groups: &usize| {
            weight.groups.is_multiple_of(*groups) && groups * weight.inputs.max(weight.outputs) <= Self::CHANNELS
        };
        let groups = (1..=weight.groups).rev().find(fits).unwrap_or(1);
        Self { each: PackedShape { groups, ..*weight }, count: weight.groups / groups }
    }

    /// Elements of the transformed weights of one slice.
    fn transformed_len(&self) -> usize {
        transformed_len(&self.each)
    }

    /// The input channels of slice `slice`.
    fn inputs(&self, slice: usize) -> Range<usize> {
        let channels = self.each.groups * self.each.inputs;
        slice * channels..(slice + 1) * channels
    }

    /// The output channels of slice `slice`.
    fn outputs(&self, slice: usize) -> Range<usize> {
        let channels = self.each.groups * self.each.outputs;
        slice * channels..(slice + 1) * channels
    }
}

/// The packed form of the transformed weights of one slice.
fn transformed_shape(weight: &PackedShape) -> PackedShape {
    PackedShape { groups: POSITIONS * weight.groups, kernel: [1, 1], ..*weight }
}

/// The tiles of a batch of images.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    /// Of one image, vertically and horizontally.
    each: [usize; 2],
    images: usize,
}

impl Tiles {
    fn of(layout: Layout) -> Self {
        Self { each: [layout.height.div_ceil(OUTPUTS), layout.width.div_ceil(OUTPUTS)], images: layout.batch }
    }

    fn count(&self) -> usize {
        self.images * self.each[0] * self.each[1]
    }

    /// Image, first row and first column of the outputs of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.each[1], tile % self.each[1]);
        (row / self.each[0], row % self.each[0] * OUTPUTS, column * OUTPUTS)
    }
}

/// The layout of the values of `tiles` tiles with so many values.
fn tile_layout(tiles: usize, values: usize) -> Layout {
    Layout { batch: 1, height: 1, width: tiles, channels: values + GAP, border: 0 }
}

/// Calls `body` with two buffers of this thread, whose contents are arbitrary. All plans share them, so that they stay
/// in the cache.
fn scratch<R>(sizes: [usize; 2], body: impl FnOnce([&mut [f32]; 2]) -> R) -> R {
    thread_local! {
        static BUFFERS: RefCell<[Buffer; 2]> = RefCell::default();
    }
    BUFFERS.with_borrow_mut(|buffers| {
        for (buffer, size) in buffers.iter_mut().zip(sizes) {
            if buffer.len() < size {
                *buffer = Buffer::zeros(size);
            }
        }
        let [a, b] = buffers;
        body([&mut a[..sizes[0]], &mut b[..sizes[1]]])
    })
}
