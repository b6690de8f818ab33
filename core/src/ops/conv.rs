//! Two-dimensional convolution.

use super::geometry::Conv2dGeometry;
use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use qdrop_kernels::conv::{self, Conv2dShape};

struct Conv2dOp(Conv2dShape);

impl Conv2dOp {
    fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let s = &self.0;
        let mut out = vec![0.0; s.output_len()];
        conv::forward(s, x, weight, bias, &mut out);
        output(out, (s.batch, s.out_channels, s.out_height(), s.out_width()))
    }

    /// Gradients of the inputs that need one.
    fn gradients(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let s = &self.0;
        let grad = grad.contiguous()?;
        f32_values(&grad, |g| {
            let dx = x.track_op().then(|| gradient(x, |dx| f32_values(weight, |w| conv::backward_input(s, w, g, dx))));
            let dw =
                weight.track_op().then(|| gradient(weight, |dw| f32_values(x, |x| conv::backward_weight(s, x, g, dw))));
            Ok((dx.transpose()?, dw.transpose()?))
        })?
    }
}

impl CustomOp2 for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(slice(x, lx)?, slice(w, lw)?, None))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, grad)
    }
}

impl CustomOp3 for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, grad)?;
        let db = b.track_op().then(|| {
            let grad = grad.contiguous()?;
            gradient(b, |db| f32_values(&grad, |g| conv::backward_bias(&self.0, g, db)))
        });
        Ok((dx, dw, db.transpose()?))
    }
}

/// The convolution of `x` (N, C, H, W) with `weight` (O, C / groups, KH, KW), plus `bias` (O).
///
/// # Errors
/// The shapes do not fit each other.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: &Conv2dGeometry) -> Result<Tensor> {
    if !on_kernels(x) {
        return composite::conv2d(x, weight, bias, geometry);
    }
    let op = Conv2dOp(geometry.shape(x, weight)?);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}
