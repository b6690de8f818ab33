//! The grid of a weight, element by element.

use qdrop_core::kernels::rounding::{clamp, round_half_even};
use qdrop_core::prelude::*;

/// The grid of a weight.
pub struct Grid {
    params: QParams,
    bounds: [f32; 2],
    /// Elements of a channel that lie together, and number of channels.
    channels: [usize; 2],
}

impl Grid {
    /// That of a quantizer, for a weight of this shape.
    ///
    /// # Errors
    /// The quantizer has no range, or the shape does not fit it.
    pub fn of(quantizer: &dyn Quantizer, dims: &[usize]) -> Result<Self> {
        Self::new(quantizer.spec(), quantizer.qparams()?, dims)
    }

    /// That of a range, for a weight of this shape.
    ///
    /// # Errors
    /// The shape does not fit it.
    pub fn new(spec: &QuantSpec, params: QParams, dims: &[usize]) -> Result<Self> {
        let channels = spec.granularity.channels(dims)?;
        Ok(Self { params, bounds: [spec.qmin(), spec.qmax()], channels: [channels.inner, channels.count] })
    }

    /// Number of channels with a scale of their own.
    pub fn channels(&self) -> usize {
        self.channels[1]
    }

    /// The channel of element `i`.
    pub fn channel(&self, i: usize) -> usize {
        let [inner, count] = self.channels;
        i / inner % count
    }

    /// The distance of neighbouring points at element `i`.
    pub fn step(&self, i: usize) -> f32 {
        self.params.scale[self.channel(i)]
    }

    /// The nearest point of the grid of element `i`.
    pub fn nearest(&self, i: usize, value: f32) -> f32 {
        let (scale, zero_point) = (self.step(i), self.params.zero_point[self.channel(i)]);
        let [qmin, qmax] = self.bounds;
        (clamp(round_half_even(value / scale) + zero_point, qmin, qmax) - zero_point) * scale
    }
}
