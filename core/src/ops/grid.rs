//! The integer grid of a fake quantization.

use crate::grid::{Granularity, QuantSpec};
use candle_core::{bail, Error, Result, Tensor};
use qdrop_kernels::fake_quantize as kernel;
use qdrop_kernels::segments::Channels;

/// The integer bounds of a grid, and which elements share a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Smallest integer.
    pub qmin: f32,
    /// Largest integer.
    pub qmax: f32,
    /// Which elements share a scale.
    pub granularity: Granularity,
}

impl From<&QuantSpec> for Grid {
    fn from(spec: &QuantSpec) -> Self {
        Self { qmin: spec.qmin(), qmax: spec.qmax(), granularity: spec.granularity }
    }
}

impl Grid {
    pub(super) fn channels(&self, dims: &[usize], scale: &Tensor) -> Result<Channels> {
        let channels = self.granularity.channels(dims).map_err(Error::wrap)?;
        if channels.count != scale.elem_count() {
            bail!(
                "a tensor of shape {dims:?} has {} channels, but {} scales were given",
                channels.count,
                scale.elem_count()
            );
        }
        Ok(channels)
    }

    /// Per-channel values, reshaped so that they broadcast to `x`.
    pub(super) fn broadcast(&self, values: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.channels(x.dims(), values)?;
        let mut dims = vec![1; x.rank()];
        if let Granularity::PerAxis(axis) = self.granularity {
            dims[axis] = values.elem_count();
        }
        values.reshape(dims)
    }

    pub(super) fn kernel<'a>(&self, scale: &'a [f32], zero_point: &'a [f32], channels: Channels) -> kernel::Grid<'a> {
        kernel::Grid { scale, zero_point, qmin: self.qmin, qmax: self.qmax, channels }
    }
}
