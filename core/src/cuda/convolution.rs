//! A convolution in its three passes: by the device's library where it has a deterministic algorithm, else by own kernels.

use super::device::{Buffer, Device, LibraryConvolution, Pass};
use super::kernels::{self, is_depthwise, weight_parts};
use crate::error::Result;
use qdrop_kernels::conv::Conv2dShape;

/// Numbers in the order (O, KH, KW, I) of numbers in the order (O, I, KH, KW), where I is that of a group.
pub fn to_device_order(s: &Conv2dShape, values: &[f32]) -> Vec<f32> {
    let (inputs, taps) = (s.in_channels / s.groups, s.kernel[0] * s.kernel[1]);
    let filters = values.chunks_exact(inputs * taps);
    filters.flat_map(|f| (0..taps * inputs).map(move |i| f[i % inputs * taps + i / inputs])).collect()
}

/// The inverse of [`to_device_order`].
pub fn from_device_order(s: &Conv2dShape, values: &[f32]) -> Vec<f32> {
    let (inputs, taps) = (s.in_channels / s.groups, s.kernel[0] * s.kernel[1]);
    let filters = values.chunks_exact(inputs * taps);
    filters.flat_map(|f| (0..taps * inputs).map(move |i| f[i % taps * inputs + i / taps])).collect()
}

pub struct Convolution {
    shape: Conv2dShape,
    forward: Option<Box<dyn LibraryConvolution>>,
    input: Option<Box<dyn LibraryConvolution>>,
    weight: Option<Box<dyn LibraryConvolution>>,
    /// Room for the parts of a weight's gradient.
    parts: Option<Buffer<f32>>,
}

impl Convolution {
    /// `learns` and `has_input_gradient` say which backward passes there are.
    pub fn new(
        device: &dyn Device,
        shape: Conv2dShape,
        learns: bool,
        has_input_gradient: bool,
        tf32: bool,
    ) -> Result<Self> {
        // Libraries are weak at depthwise convolutions, and take symmetric padding only.
        let padding = shape.padding;
        let own = is_depthwise(&shape) || padding.top != padding.bottom || padding.left != padding.right;
        let library = |wanted: bool, pass| match wanted && !own {
            true => device.convolution(&shape, pass, tf32),
            false => Ok(None),
        };
        let forward = library(true, Pass::Forward)?;
        let input = library(has_input_gradient, Pass::Input)?;
        let weight = library(learns, Pass::Weight)?;
        let parts = match learns && weight.is_none() {
            true => Some(Buffer::zeros(device, weight_parts(&shape) * shape.weight_len())?),
            false => None,
        };
        Ok(Self { shape, forward, input, weight, parts })
    }

    fn run(&self, library: &dyn LibraryConvolution, [x, w, y]: [&Buffer<f32>; 3]) -> Result<()> {
        kernels::check(&self.shape, [x, w, y]);
        library.run(x, w, y)
    }

    pub fn forward(&self, device: &dyn Device, x: &Buffer<f32>, w: &Buffer<f32>, y: &Buffer<f32>) -> Result<()> {
        match &self.forward {
            Some(library) => self.run(&**library, [x, w, y]),
            None => kernels::convolve(device, &self.shape, x, w, y),
        }
    }

    pub fn backward_input(
        &self,
        device: &dyn Device,
        gx: &Buffer<f32>,
        w: &Buffer<f32>,
        gy: &Buffer<f32>,
    ) -> Result<()> {
        match &self.input {
            Some(library) => self.run(&**library, [gx, w, gy]),
            None => kernels::convolve_input(device, &self.shape, gx, w, gy),
        }
    }

    pub fn backward_weight(
        &self,
        device: &dyn Device,
        x: &Buffer<f32>,
        gw: &Buffer<f32>,
        gy: &Buffer<f32>,
    ) -> Result<()> {
        match (&self.weight, &self.parts) {
            (Some(library), _) => self.run(&**library, [x, gw, gy]),
            (None, Some(parts)) => kernels::convolve_weight(device, &self.shape, x, gw, gy, parts),
            (None, None) => Ok(()),
        }
    }
}
