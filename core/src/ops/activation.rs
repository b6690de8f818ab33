//! Activation functions.

use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels, Activation};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use qdrop_kernels::activation as kernel;

struct ActivationOp(Activation);

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut out = vec![0.0; x.len()];
        kernel::forward(self.0, x, &mut out);
        Ok(output(out, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = gradient(x, |dx| f32_values(x, |x| f32_values(&grad, |g| kernel::backward(self.0, x, g, dx)))?)?;
        Ok(Some(dx))
    }
}

/// Applies an activation function element by element.
///
/// # Errors
/// An operation of candle fails.
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if on_kernels(x) {
        x.contiguous()?.apply_op1(ActivationOp(activation))
    } else {
        composite::activation(x, activation)
    }
}
