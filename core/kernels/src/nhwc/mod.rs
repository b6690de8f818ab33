//! Kernels on channels-last images (NHWC) that have a border of zeros.
//!
//! A convolution reads its input at constant distances: a tap of the kernel is an offset into the image, and the
//! border takes the place of the padding. Weights are packed so that the output channels of a tile follow each other
//! in memory ([`Packing`]); alphas, Adam's moments and gradients of weights have the same layout. Vector instructions
//! run along channels, whose number need not be a multiple of the vector width.

mod accumulate;
mod bias;
mod buffer;
mod channels;
mod convolution;
mod depthwise;
mod each;
mod layout;
mod normalize;
mod pack;
mod packing;
mod parts;
mod pointer;
pub mod pool;
mod product;
pub mod rounding;
mod rows;
pub mod stage;
mod steps;
mod tile;
mod transpose;
mod weight;
mod winograd;

pub use accumulate::accumulate;
pub use bias::bias_gradient;
pub use buffer::Buffer;
pub use channels::{affine, copy_channels, shuffle_channels, spread_channels};
pub use convolution::{Convolution, ForwardConvolution, Layouts};
pub use layout::{Layout, Read, Write, Written};
pub use normalize::{layer_norm, layer_norm_backward};
pub use packing::Packing;
pub use product::{multiply, multiply_sum};
pub use rows::border_of_gradient;
pub use steps::{from_sums, to_steps, Steps};
pub use transpose::{from_planes, to_planes};
