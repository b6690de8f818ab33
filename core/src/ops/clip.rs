//! A clip with one bound for each channel.

use super::storage::{f32_values, gradient, host_values, output, slice};
use super::{composite, on_kernels};
use candle_core::{bail, CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use qdrop_kernels::clip as kernel;
use qdrop_kernels::segments::Channels;

struct ClipOp {
    bound: Vec<f32>,
    channels: Channels,
}

impl CustomOp1 for ClipOp {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut out = vec![0.0; x.len()];
        kernel::forward(x, &self.bound, self.channels, &mut out);
        Ok(output(out, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = gradient(x, |dx| {
            f32_values(x, |x| f32_values(&grad, |g| kernel::backward(x, &self.bound, self.channels, g, dx)))?
        })?;
        Ok(Some(dx))
    }
}

/// `min(max(x, 0), bound)`, where `bound` has one element for each channel of `x` (N, C, ...). The gradient with respect
/// to x is 1 between 0 and the bound, and 0 outside and at both; the bound gets none.
///
/// # Errors
/// The number of bounds is not that of the channels; on the CPU also if a bound is not a positive number.
pub fn clip(x: &Tensor, bound: &Tensor) -> Result<Tensor> {
    if !on_kernels(x) {
        return composite::clip(x, bound);
    }
    let op = ClipOp { bound: bounds(bound, x.dim(1)?)?, channels: Channels::along(x.dims(), 1) };
    x.contiguous()?.apply_op1(op)
}

/// The bounds of a clip of so many channels, on the host.
///
/// # Errors
/// Their number is another one, or one of them is not a positive number.
pub(crate) fn bounds(bound: &Tensor, channels: usize) -> Result<Vec<f32>> {
    composite::check_number(bound, channels)?;
    let bounds = host_values(bound, <[f32]>::to_vec)?;
    match bounds.iter().position(|b| !b.is_finite() || *b <= 0.0) {
        Some(c) => bail!("the bounds of a clip are positive numbers, but that of channel {c} is {}", bounds[c]),
        None => Ok(bounds),
    }
}
