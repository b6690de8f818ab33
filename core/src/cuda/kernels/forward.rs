//! Kernels of `forward.cu`: what a forward pass computes beside convolutions. Images are channels-last without gaps.

use super::super::abi::{name, Finish, Pool};
use super::super::device::{Buffer, Device};
use super::{blocks, launch, names};
use crate::error::Result;
use qdrop_kernels::nhwc::stage::{Function, TensorGrid};
use qdrop_kernels::pool::Pool2dShape;

/// What follows a convolution: sums of integers become values, then a bias, a shortcut, an activation function and a quantizer.
/// Each is optional.
#[derive(Clone, Copy, Default)]
pub struct After<'a> {
    /// Of a layer that is sums of integers.
    pub sums: Option<AfterSums<'a>>,
    /// One for each channel.
    pub bias: Option<&'a Buffer<f32>>,
    pub shortcut: Option<&'a Buffer<f32>>,
    /// A clip has one bound for each channel.
    pub activation: Option<Function<&'a Buffer<f32>>>,
    pub grid: Option<TensorGrid>,
}

/// How sums of integers become values.
#[derive(Clone, Copy)]
pub struct AfterSums<'a> {
    /// One for each channel.
    pub factors: &'a Buffer<f32>,
    /// The sums of the rest that the integers left.
    pub rest: Option<&'a Buffer<f32>>,
}

impl After<'_> {
    /// Whether it leaves values as they are.
    pub fn is_nothing(&self) -> bool {
        let more = self.shortcut.is_some() || self.activation.is_some() || self.grid.is_some();
        self.sums.is_none() && self.bias.is_none() && !more
    }
}

/// Changes `z`, whose pixels have this many channels.
pub fn finish(d: &dyn Device, z: &Buffer<f32>, channels: usize, after: After<'_>) -> Result<()> {
    const NAMES: [&str; 9] = names!("finish");
    let bounds = match after.activation {
        Some(Function::Clip(bounds)) => Some(bounds),
        Some(Function::Activation(_)) | None => None,
    };
    let (rest, factors) = (after.sums.and_then(|s| s.rest), after.sums.map(|s| s.factors));
    assert!(z.len().is_multiple_of(channels), "channels of a value");
    assert!([factors, after.bias, bounds].iter().flatten().all(|b| b.len() == channels), "numbers of channels");
    assert!([rest, after.shortcut].iter().flatten().all(|b| b.len() == z.len()), "values of a stage");
    let address = |b: Option<&Buffer<f32>>| b.map_or(0, Buffer::address);
    let operands = Finish {
        rest: address(rest),
        factors: address(factors),
        offsets: address(after.bias),
        shortcut: address(after.shortcut),
        bounds: address(bounds),
    };
    let step = after.grid.unwrap_or(TensorGrid { scale: 1.0, zero_point: 0.0, qmin: 0.0, qmax: 0.0 });
    let (grid, quantized, len) = (blocks(z.len().div_ceil(4)), u32::from(after.grid.is_some()), z.len() as u64);
    launch!(d, NAMES[name(after.activation)], grid, z.address(), operands, step, quantized, channels as u32, len)
}

/// The nearest integers of `x / scale`, or the rests that they leave. `out` may be x.
pub fn to_steps(d: &dyn Device, x: &Buffer<f32>, scale: f32, rest: bool, out: &Buffer<f32>) -> Result<()> {
    assert_eq!(x.len(), out.len(), "values");
    let (inverse, rest, len) = (1.0 / scale, u32::from(rest), x.len() as u64);
    launch!(d, "to_steps", blocks(x.len()), x.address(), out.address(), inverse, rest, len)
}

/// Copies values.
pub fn copy_values(d: &dyn Device, x: &Buffer<f32>, out: &Buffer<f32>) -> Result<()> {
    assert_eq!(x.len(), out.len(), "values");
    launch!(d, "copy_values", blocks(x.len()), x.address(), out.address(), x.len() as u64)
}

/// `x * factor + offset` of each channel.
pub fn affine(d: &dyn Device, x: &Buffer<f32>, [factors, offsets]: [&Buffer<f32>; 2], out: &Buffer<f32>) -> Result<()> {
    let channels = factors.len();
    assert!(x.len() == out.len() && offsets.len() == channels && x.len().is_multiple_of(channels), "factors");
    let (factors, offsets, len) = (factors.address(), offsets.address(), x.len() as u64);
    launch!(d, "affine", blocks(x.len()), x.address(), factors, offsets, out.address(), channels as u32, len)
}

/// Products of images (batch, pixels, channels) with a value of equal size, or with one pixel for each image.
pub fn multiply(
    d: &dyn Device,
    x: &Buffer<f32>,
    factors: &Buffer<f32>,
    out: &Buffer<f32>,
    [batch, pixels, channels]: [usize; 3],
) -> Result<()> {
    let len = batch * pixels * channels;
    let one_pixel = factors.len() != len;
    assert!([x.len(), out.len()] == [len; 2] && (!one_pixel || factors.len() == batch * channels), "factors");
    let (factors, out) = (factors.address(), out.address());
    let (one_pixel, image) = (u32::from(one_pixel), (pixels * channels) as u32);
    launch!(d, "multiply_values", blocks(len), x.address(), factors, out, one_pixel, image, channels as u32, len as u64)
}

/// Channels of images: of how many, from which one on.
#[derive(Clone, Copy)]
pub struct ChannelsOf<'a> {
    pub values: &'a Buffer<f32>,
    pub channels: usize,
    pub first: usize,
}

/// Copies `count` channels of each pixel.
pub fn copy_channels(d: &dyn Device, from: ChannelsOf<'_>, to: ChannelsOf<'_>, count: usize) -> Result<()> {
    let pixels = from.values.len() / from.channels;
    let fits = |of: ChannelsOf<'_>| of.first + count <= of.channels && of.values.len() == pixels * of.channels;
    assert!(fits(from) && fits(to), "channels");
    let (x, read, first) = (from.values.address(), from.channels as u32, from.first as u32);
    let (out, written, to) = (to.values.address(), to.channels as u32, to.first as u32);
    let len = pixels * count;
    launch!(d, "copy_channels", blocks(len), x, read, first, out, written, to, count as u32, len as u64)
}

/// Channels as rows of `groups` groups, read column by column.
pub fn shuffle(d: &dyn Device, x: &Buffer<f32>, groups: usize, channels: usize, out: &Buffer<f32>) -> Result<()> {
    assert!(x.len() == out.len() && x.len().is_multiple_of(channels), "channels");
    assert!(channels.is_multiple_of(groups), "{groups} groups of {channels} channels");
    let len = x.len() as u64;
    launch!(d, "shuffle", blocks(x.len()), x.address(), out.address(), groups as u32, channels as u32, len)
}

/// The mean over all pixels of each image.
pub fn mean(d: &dyn Device, x: &Buffer<f32>, [pixels, channels]: [usize; 2], out: &Buffer<f32>) -> Result<()> {
    assert!(out.len().is_multiple_of(channels) && out.len() * pixels == x.len(), "means");
    let len = out.len() as u64;
    launch!(d, "mean", blocks(out.len()), x.address(), out.address(), pixels as u32, channels as u32, len)
}

/// How a pool takes the values under its window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Max,
    Average,
}

/// A pool of `batch` images.
pub fn pool(
    d: &dyn Device,
    pooling: Pooling,
    shape: &Pool2dShape,
    [batch, channels]: [usize; 2],
    x: &Buffer<f32>,
    out: &Buffer<f32>,
) -> Result<()> {
    let images = batch * channels;
    let want = [shape.in_height * shape.in_width, shape.out_height() * shape.out_width()].map(|pixels| images * pixels);
    assert_eq!([x.len(), out.len()], want, "a pool");
    let name = match pooling {
        Pooling::Max => "max_pool",
        Pooling::Average => "average_pool",
    };
    launch!(d, name, blocks(out.len()), x.address(), out.address(), Pool::new(shape, channels), out.len() as u64)
}

/// Layer normalization over the channels of each pixel.
pub fn layer_norm(
    d: &dyn Device,
    x: &Buffer<f32>,
    [factors, offsets]: [&Buffer<f32>; 2],
    epsilon: f32,
    out: &Buffer<f32>,
) -> Result<()> {
    let channels = factors.len();
    assert!(x.len() == out.len() && offsets.len() == channels && x.len().is_multiple_of(channels), "factors");
    let pixels = x.len() / channels;
    let (x, factors, offsets, grid) = (x.address(), factors.address(), offsets.address(), blocks(pixels * 16));
    launch!(d, "layer_norm", grid, x, factors, offsets, epsilon, out.address(), channels as u32, pixels as u32)
}
