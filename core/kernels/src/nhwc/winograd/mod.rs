//! Winograd's F(2 x 2, 3 x 3): convolutions of 3 x 3 and stride 1 with 16 products where the direct
//! form has 36.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1. An
//! image is cut into tiles of 2 x 2 outputs, each of which reads 4 x 4 inputs `d`. With
//! `V = B^T d B` and `U = G w G^T` the outputs are `A^T [sum over inputs of U * V] A`: for each of the 16
//! positions a product of matrices, (tiles x inputs) times (inputs x outputs). The gradient of U is
//! `V * Z` with `Z = A grad A^T` (the transposed maps), summed over tiles; that of the weight is
//! `G^T dU G`. The gradient of the input is the convolution of `grad` with the mirrored weight.
//!
//! The products are those of a convolution of 1 x 1 with 16 groups, whose pixels are tiles: the plans of
//! direct convolutions compute them.

mod rows;
mod transform;
mod weight;

pub use rows::WinogradPlan;
pub use weight::{gradient_of_weight, mirrored, transformed, WinogradWeightPlan};

use super::{Buffer, Layout, PackedShape};
use crate::conv::{Conv2dShape, Padding};
use std::cell::RefCell;

/// Positions of a tile.
const POSITIONS: usize = 16;
/// Elements between the values of a tile and those of the next, beyond the values: tiles whose distance is
/// a power of two would share few lines of the first-level cache.
const GAP: usize = 16;
/// Channels from which on the products outweigh the transforms.
const LEAST_CHANNELS: usize = 32;
/// Bytes of transformed weights beyond which the forms that pass over them block by block spend on reading
/// them what the products save.
const MOST_WEIGHTS: usize = 5_000_000;

/// Whether a convolution has this form, and has enough channels to gain by it.
fn has_form(shape: &Conv2dShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.padding == Padding::all(1)
        && shape.groups == 1
        && shape.in_channels.min(shape.out_channels) >= LEAST_CHANNELS
}

/// Whether a convolution and the gradient of its input gain by this form.
pub fn winograd_applies(shape: &Conv2dShape) -> bool {
    has_form(shape) && transformed_shape(&PackedShape::of(shape)).len() * size_of::<f32>() <= MOST_WEIGHTS
}

/// Whether the gradient of a convolution's weights gains by this form: it passes over them once for many
/// tiles, of which the batch must have as many.
pub fn winograd_gradient_applies(shape: &Conv2dShape) -> bool {
    let tiles = shape.batch * shape.out_height().div_ceil(2) * shape.out_width().div_ceil(2);
    has_form(shape) && (winograd_applies(shape) || tiles >= weight::LEAST_TILES)
}

/// The packed form of transformed weights, for a packed weight of 3 x 3.
pub fn transformed_shape(weight: &PackedShape) -> PackedShape {
    PackedShape { groups: POSITIONS, kernel: [1, 1], ..*weight }
}

/// The tiles of a batch of images.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    /// Of one image, downward and across.
    each: [usize; 2],
    images: usize,
}

impl Tiles {
    fn of(layout: Layout) -> Self {
        Self { each: [layout.height.div_ceil(2), layout.width.div_ceil(2)], images: layout.batch }
    }

    fn count(&self) -> usize {
        self.images * self.each[0] * self.each[1]
    }

    /// Image, first row and first column of the outputs of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.each[1], tile % self.each[1]);
        (row / self.each[0], row % self.each[0] * 2, column * 2)
    }
}

/// The layout of the values of `tiles` tiles with so many values.
fn tile_layout(tiles: usize, values: usize) -> Layout {
    Layout { batch: 1, height: 1, width: tiles, channels: values + GAP, border: 0 }
}

/// Calls `body` with two buffers of this thread, which hold what the last call left in them: buffers that
/// all plans share stay in the cache.
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
