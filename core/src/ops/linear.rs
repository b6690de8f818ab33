//! The fully connected layer.

use super::on_kernels;
use super::storage::{f32_values, gradient, output, slice};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use qdrop_kernels::linear::{self, LinearShape};

struct LinearOp(LinearShape);

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0; self.0.batch * self.0.outputs];
        linear::forward(self.0, slice(x, lx)?, slice(w, lw)?, None, &mut out);
        Ok(output(out, (self.0.batch, self.0.outputs)))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        f32_values(&grad, |g| {
            let dx =
                x.track_op().then(|| gradient(x, |dx| f32_values(w, |w| linear::backward_input(self.0, w, g, dx))));
            let dw =
                w.track_op().then(|| gradient(w, |dw| f32_values(x, |x| linear::backward_weight(self.0, x, g, dw))));
            Ok((dx.transpose()?, dw.transpose()?))
        })?
    }
}

/// `x` (N, inputs) times the transpose of `weight` (outputs, inputs), plus `bias` (outputs).
///
/// # Errors
/// The shapes do not fit each other.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let out = if on_kernels(x) {
        let (batch, inputs) = x.dims2()?;
        let (outputs, expected) = weight.dims2()?;
        if inputs != expected {
            candle_core::bail!(
                "linear: {inputs} features, but the weight of shape {:?} takes {expected}",
                weight.dims()
            );
        }
        x.contiguous()?.apply_op2(&weight.contiguous()?, LinearOp(LinearShape { batch, inputs, outputs }))?
    } else {
        x.matmul(&weight.t()?)?
    };
    match bias {
        Some(bias) => out.broadcast_add(bias),
        None => Ok(out),
    }
}
