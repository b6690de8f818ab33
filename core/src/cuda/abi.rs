//! What kernels take, laid out as in their source (`core/cuda/`).

use crate::ops::Activation;
use qdrop_kernels::adam::AdamStep;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::drop::GROUP;
use qdrop_kernels::nhwc::stage::{Function, TensorGrid};
use qdrop_kernels::pool::Pool2dShape;
use qdrop_kernels::random::Stream;
use qdrop_kernels::range_search::{Bounds, Candidate};

/// A type that a device's memory holds as the CPU's does.
///
/// # Safety
/// Any bytes are a value, and there is no padding.
pub unsafe trait Plain: Copy {}

/// The choices of drop for 128 values.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Choices(pub [u8; 16]);

/// The random numbers of a site in one step.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Draw {
    seed: [u32; 2],
    id: [u32; 3],
    number: u32,
}

impl Draw {
    /// Each bit is 1 with this probability.
    pub fn new(stream: Stream, probability: f32) -> Self {
        let number = (f64::from(probability) * 65536.0).round() as u32;
        Self { seed: [stream.seed as u32, (stream.seed >> 32) as u32], id: stream.id, number: number.min(1 << 16) }
    }

    /// All bits are 1, or none.
    pub fn constant(one: bool) -> Self {
        Self { number: if one { 1 << 16 } else { 0 }, ..Self::default() }
    }
}

/// What a stage adds to the gradients of scale and zero point, and to the loss.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    pub scale: f64,
    pub zero_point: f64,
    pub loss: f64,
}

/// Rows of values that a stage takes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub row: u32,
    pub rows_of_image: u32,
    pub groups: u32,
    pub channels: u32,
}

impl Rows {
    /// Of `batch` channels-last images (C, H, W).
    pub fn new(batch: usize, [channels, height, width]: [usize; 3]) -> Self {
        let groups = batch * height * (width * channels).div_ceil(GROUP);
        let [row, rows_of_image, groups, channels] = [width * channels, height, groups, channels].map(|n| n as u32);
        Self { row, rows_of_image, groups, channels }
    }

    /// Blocks of a stage's grid.
    pub fn blocks(&self) -> u32 {
        self.groups.div_ceil(32)
    }
}

/// Addresses of what is added to a convolution's output, and of the bounds of a clip; 0 is nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Operands {
    pub bias: u64,
    pub shortcut: u64,
    pub shortcut_bias: u64,
    pub bounds: u64,
}

/// The quantizer of an activation, with what is learned of it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Site {
    pub step_scale: f32,
    pub step_zero_point: f32,
    pub qmin: f32,
    pub qmax: f32,
    pub scale: [f32; 3],
    pub zero_point: [f32; 3],
    pub scale_rates: i32,
    pub zero_point_rates: i32,
    pub scale_size: f32,
    pub zero_point_size: f32,
    pub factor: f64,
}

impl Site {
    /// That of a stage without a quantizer.
    pub const UNUSED: Self = Self {
        step_scale: 1.0,
        step_zero_point: 0.0,
        qmin: 0.0,
        qmax: 0.0,
        scale: [1.0, 0.0, 0.0],
        zero_point: [0.0; 3],
        scale_rates: -1,
        zero_point_rates: -1,
        scale_size: 1.0,
        zero_point_size: 1.0,
        factor: 1.0,
    };
}

/// Adam's factors of one update.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates([f32; 6]);

impl Rates {
    pub fn new(step: AdamStep) -> Self {
        Self(step.factors())
    }
}

/// AdaRound's regularizer of one update; a weight of 0 is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Regularizer {
    pub weight: f32,
    pub b: f32,
}

/// The grid of a weight: addresses of scales and zero points by output channel, each of which has `len` weights.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WeightGrid {
    pub scale: u64,
    pub zero_point: u64,
    pub qmin: f32,
    pub qmax: f32,
    pub len: u32,
    /// 1 if weights are rounded hard.
    pub hard: u32,
}

/// A convolution's sizes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Geometry([u32; 16]);

impl Geometry {
    pub fn new(s: &Conv2dShape) -> Self {
        let sizes = [
            [s.batch, s.in_channels, s.in_height],
            [s.in_width, s.out_channels, s.out_height()],
            [s.out_width(), s.kernel[0], s.kernel[1]],
            [s.stride[0], s.stride[1], s.padding.top],
            [s.padding.left, s.dilation[0], s.dilation[1]],
        ];
        let mut all = [0; 16];
        sizes.as_flattened().iter().chain([&s.groups]).zip(&mut all).for_each(|(size, out)| *out = *size as u32);
        Self(all)
    }
}

/// Addresses of what follows a convolution in a forward pass; 0 is nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Finish {
    pub rest: u64,
    pub factors: u64,
    pub offsets: u64,
    pub shortcut: u64,
    pub bounds: u64,
}

/// A pool of images with these channels.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Pool([u32; 14]);

impl Pool {
    pub fn new(s: &Pool2dShape, channels: usize) -> Self {
        let p = s.padding;
        let sizes = [channels, s.in_height, s.in_width, s.out_height(), s.out_width(), s.kernel[0], s.kernel[1]];
        let more = [s.stride[0], s.stride[1], p.top, p.bottom, p.left, p.right, s.count_include_pad.into()];
        let mut all = [0; 14];
        sizes.iter().chain(&more).zip(&mut all).for_each(|(size, out)| *out = *size as u32);
        Self(all)
    }
}

/// Smallest and largest value.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Extremes {
    pub low: f32,
    pub high: f32,
}

// SAFETY: numbers and arrays of numbers, without padding.
unsafe impl Plain for u8 {}
unsafe impl Plain for u32 {}
unsafe impl Plain for u64 {}
unsafe impl Plain for f32 {}
unsafe impl Plain for f64 {}
unsafe impl Plain for Choices {}
unsafe impl Plain for Draw {}
unsafe impl Plain for Sums {}
unsafe impl Plain for Rows {}
unsafe impl Plain for Operands {}
unsafe impl Plain for Site {}
unsafe impl Plain for Rates {}
unsafe impl Plain for Regularizer {}
unsafe impl Plain for WeightGrid {}
unsafe impl Plain for Geometry {}
unsafe impl Plain for Finish {}
unsafe impl Plain for Pool {}
unsafe impl Plain for Extremes {}
// The kernels of the CPU take these too.
unsafe impl Plain for TensorGrid {}
unsafe impl Plain for Candidate {}
unsafe impl Plain for Bounds {}

/// The part of the kernels' names that stands for an activation function.
pub fn name<B>(activation: Option<Function<B>>) -> usize {
    let activation = match activation {
        None => return 0,
        Some(Function::Clip(_)) => return 8,
        Some(Function::Activation(activation)) => activation,
    };
    match activation {
        Activation::Relu => 1,
        Activation::Relu6 => 2,
        Activation::Silu => 3,
        Activation::HardSwish => 4,
        Activation::HardSigmoid => 5,
        Activation::Sigmoid => 6,
        Activation::Gelu => 7,
    }
}
