//! Fake quantization.

use super::grid::Grid;
use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use qdrop_kernels::fake_quantize as kernel;
use qdrop_kernels::segments::Channels;

struct FakeQuantizeOp {
    grid: Grid,
    channels: Channels,
}

impl CustomOp3 for FakeQuantizeOp {
    fn name(&self) -> &'static str {
        "fake_quantize"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        s: &CpuStorage,
        ls: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, lx)?;
        let mut out = vec![0.0; x.len()];
        kernel::forward(x, self.grid.kernel(slice(s, ls)?, slice(z, lz)?, self.channels), &mut out);
        Ok(output(out, lx.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        zero_point: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut sums = (Vec::new(), Vec::new());
        let dx = gradient(x, |dx| {
            f32_values(scale, |s| {
                f32_values(zero_point, |z| {
                    let grid = self.grid.kernel(s, z, self.channels);
                    f32_values(x, |x| f32_values(&grad, |g| sums = kernel::backward(x, g, grid, dx)))?
                })?
            })?
        })?;
        let of = |like: &Tensor, sums: &[f64]| -> Result<Tensor> {
            let values: Vec<f32> = sums.iter().map(|v| *v as f32).collect();
            Tensor::from_vec(values, like.shape(), like.device())
        };
        let ds = scale.track_op().then(|| of(scale, &sums.0)).transpose()?;
        let dz = zero_point.track_op().then(|| of(zero_point, &sums.1)).transpose()?;
        Ok((x.track_op().then_some(dx), ds, dz))
    }
}

/// `(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`.
///
/// `scale` and `zero_point` have one element for each channel; `zero_point` holds integers.
/// Gradients: straight-through for the rounding; the clamp passes gradient 1 inside and on its
/// bounds. `x`, `scale` (LSQ, arXiv 1902.08153) and `zero_point` (LSQ+, arXiv 2004.09576) get one.
///
/// # Errors
/// The number of scales is not the number of channels.
pub fn fake_quantize(x: &Tensor, scale: &Tensor, zero_point: &Tensor, grid: &Grid) -> Result<Tensor> {
    if !on_kernels(x) {
        return composite::fake_quantize(x, scale, zero_point, grid);
    }
    let op = FakeQuantizeOp { grid: *grid, channels: grid.channels(x.dims(), scale)? };
    x.contiguous()?.apply_op3(&scale.contiguous()?, &zero_point.contiguous()?, op)
}
