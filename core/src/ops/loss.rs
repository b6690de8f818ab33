//! The reconstruction loss.

use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use qdrop_kernels::loss as kernel;

struct LossOp {
    target: Tensor,
    positions: f64,
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        "reconstruction_loss"
    }

    fn cpu_fwd(&self, out: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = slice(out, layout)?;
        let sum = f32_values(&self.target, |t| kernel::squared_error(out, t))?;
        Ok(output(vec![(sum / self.positions) as f32], ()))
    }

    fn bwd(&self, out: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let factor = (f64::from(grad.to_scalar::<f32>()?) / self.positions) as f32;
        let d = gradient(out, |d| {
            f32_values(out, |o| f32_values(&self.target, |t| kernel::squared_error_backward(o, t, factor, d)))?
        })?;
        Ok(Some(d))
    }
}

/// The mean over samples and positions of the sum over channels (axis 1) of
/// `(output - target)^2`, a scalar. Differentiable with respect to `output` only.
///
/// # Errors
/// The shapes differ.
pub fn reconstruction_loss(output: &Tensor, target: &Tensor) -> Result<Tensor> {
    if output.dims() != target.dims() {
        candle_core::bail!("reconstruction_loss: output {:?}, target {:?}", output.dims(), target.dims());
    }
    if !on_kernels(output) {
        return composite::reconstruction_loss(output, &target.detach());
    }
    let positions = (output.elem_count() / output.dim(1)?) as f64;
    output.contiguous()?.apply_op1(LossOp { target: target.detach().contiguous()?, positions })
}
