//! Kernels on channels-last images (NHWC) that have a border of zeros.
//!
//! A convolution reads its input at constant distances: a tap of the kernel is an offset into the image, and the
//! border takes the place of the padding. Weights are packed so that the output channels of a tile follow each other
//! in memory ([`Packing`]); alphas, Adam's moments and gradients of weights have the same layout. Vector instructions
//! run along channels, whose number need not be a multiple of the vector width.

mod bias;
mod buffer;
mod convolution;
mod depthwise;
mod pack;
mod packing;
mod parts;
mod pointer;
pub mod pool;
pub mod rounding;
mod rows;
pub mod stage;
mod tile;
mod transpose;
mod weight;
mod winograd;

pub use bias::bias_gradient;
pub use buffer::Buffer;
pub use convolution::{Convolution, ForwardConvolution, Layouts};
pub use packing::Packing;
pub use rows::border_of_gradient;
pub use transpose::{from_planes, to_planes};

use pack::{PackedShape, TILE};
use rows::{exchange_channels, RowPlan};
use weight::WeightPlan;

/// A batch of images that is read.
pub type Read<'a> = (&'a [f32], Layout);
/// A batch of images that is written.
pub type Written<'a> = (&'a mut [f32], Layout);

/// Sizes of a batch of images in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Number of images.
    pub batch: usize,
    /// Height without border.
    pub height: usize,
    /// Width without border.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of zeros on each side.
    pub border: usize,
}

impl Layout {
    /// Elements from one row to the next.
    pub fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.channels
    }

    /// Elements from one image to the next.
    pub fn image(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Elements of all images with their borders.
    pub fn len(&self) -> usize {
        self.batch * self.image()
    }

    /// Whether the batch has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first value of a row, after the border.
    pub fn offset(&self, image: usize, row: usize) -> usize {
        image * self.image() + (row + self.border) * self.row() + self.border * self.channels
    }

    /// Elements of a row without its border.
    pub fn values(&self) -> usize {
        self.width * self.channels
    }
}
