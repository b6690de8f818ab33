//! Kernels on images whose channels lie together: (N, H, W, C), with a border of zeros.
//!
//! A convolution reads its input at constant distances: a tap of the kernel is an offset into the
//! image, and the border stands for the padding. Weights are packed so that the output channels
//! of a tile lie together ([`Packing`]); alphas, moments and gradients of weights have the same
//! layout. Vector instructions run along channels, which need not be a multiple of the vector width.

mod bias;
mod buffer;
mod convolution;
mod depthwise;
mod pack;
mod packing;
pub mod pool;
pub mod rounding;
mod rows;
mod shared;
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
use rows::{rotate, RowPlan};
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

    /// Elements of all images.
    pub fn len(&self) -> usize {
        self.batch * self.image()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the values of a row begin, after the border.
    pub fn offset(&self, image: usize, row: usize) -> usize {
        image * self.image() + (row + self.border) * self.row() + self.border * self.channels
    }

    /// Elements of a row's values.
    pub fn values(&self) -> usize {
        self.width * self.channels
    }
}
