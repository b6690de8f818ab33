//! AdaRound's soft rounding of weights.

use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels, Grid};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use qdrop_kernels::adaround as kernel;
use qdrop_kernels::segments::Channels;

struct AdaRoundOp {
    floor: Tensor,
    scale: Vec<f32>,
    zero_point: Vec<f32>,
    grid: Grid,
    channels: Channels,
}

impl CustomOp1 for AdaRoundOp {
    fn name(&self) -> &'static str {
        "adaround"
    }

    fn cpu_fwd(&self, alpha: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let alpha = slice(alpha, layout)?;
        let mut out = vec![0.0; alpha.len()];
        let grid = self.grid.kernel(&self.scale, &self.zero_point, self.channels);
        f32_values(&self.floor, |floor| kernel::forward(alpha, floor, grid, &mut out))?;
        Ok(output(out, layout.shape()))
    }

    fn bwd(&self, alpha: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let grid = self.grid.kernel(&self.scale, &self.zero_point, self.channels);
        let da = gradient(alpha, |da| {
            f32_values(alpha, |a| {
                f32_values(&self.floor, |f| f32_values(&grad, |g| kernel::backward(a, f, g, grid, da)))?
            })?
        })?;
        Ok(Some(da))
    }
}

/// The softly rounded weight `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) *
/// scale`, with `floor = floor(w / scale)` and h the rectified sigmoid (AdaRound, arXiv
/// 2004.10568, equations 22 and 23). Differentiable with respect to `alpha` only.
///
/// # Errors
/// The number of scales is not the number of channels.
pub fn adaround(alpha: &Tensor, floor: &Tensor, scale: &Tensor, zero_point: &Tensor, grid: &Grid) -> Result<Tensor> {
    if !on_kernels(alpha) {
        return composite::adaround(alpha, floor, scale, zero_point, grid);
    }
    let op = AdaRoundOp {
        floor: floor.detach().contiguous()?,
        scale: scale.to_vec1()?,
        zero_point: zero_point.to_vec1()?,
        grid: *grid,
        channels: grid.channels(alpha.dims(), scale)?,
    };
    alpha.contiguous()?.apply_op1(op)
}

/// `h(alpha) = clamp(sigmoid(alpha) * (zeta - gamma) + gamma, 0, 1)`, without gradient.
///
/// # Errors
/// An operation of candle fails.
pub fn soft_rounding(alpha: &Tensor) -> Result<Tensor> {
    if !on_kernels(alpha) {
        return composite::soft_rounding(alpha);
    }
    let alpha = alpha.contiguous()?;
    gradient(&alpha, |out| f32_values(&alpha, |a| kernel::soft_rounding(a, out)))
}

struct RegularizerOp(f32);

impl CustomOp1 for RegularizerOp {
    fn name(&self) -> &'static str {
        "adaround_regularizer"
    }

    fn cpu_fwd(&self, alpha: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sum = kernel::regularizer(slice(alpha, layout)?, self.0);
        Ok(output(vec![sum as f32], ()))
    }

    fn bwd(&self, alpha: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let factor = grad.to_scalar::<f32>()?;
        let da = gradient(alpha, |da| f32_values(alpha, |a| kernel::regularizer_backward(a, self.0, factor, da)))?;
        Ok(Some(da))
    }
}

/// The sum over all elements of `1 - |2 h(alpha) - 1|^b`, a scalar (AdaRound, equation 24).
///
/// # Errors
/// An operation of candle fails.
pub fn adaround_regularizer(alpha: &Tensor, b: f32) -> Result<Tensor> {
    if on_kernels(alpha) {
        alpha.contiguous()?.apply_op1(RegularizerOp(b))
    } else {
        composite::adaround_regularizer(alpha, b)
    }
}
