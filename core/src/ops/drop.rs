//! QDrop's random mix of quantized and full-precision values.

use super::storage::{f32_values, output, slice};
use super::{composite, on_kernels};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use qdrop_kernels::drop as kernel;
use qdrop_kernels::random::Stream;

/// Which elements keep their quantized value.
#[derive(Debug, Clone)]
pub enum Keep {
    /// All of them.
    All,
    /// Each one independently, with the given probability.
    Random {
        /// Source of the random numbers. Elements are numbered in the order (image, row, column, channel).
        stream: Stream,
        /// Probability of keeping the quantized value.
        probability: f32,
    },
    /// None alone: every element is `u * quantized + (1 - u) * full` with an own u, uniform in [0, 1) (the randomly weighted
    /// activations of AE-QDrop, Electronics 2024, 13, 644).
    Mixed {
        /// Source of the random numbers, which are numbered as for `Random`.
        stream: Stream,
    },
    /// Those where this tensor of the same shape is not zero.
    Mask(Tensor),
}

/// 1 where the quantized value is kept.
struct DropOp(Vec<u8>);

impl CustomOp2 for DropOp {
    fn name(&self) -> &'static str {
        "drop"
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, f: &CpuStorage, lf: &Layout) -> Result<(CpuStorage, Shape)> {
        let (q, f) = (slice(q, lq)?, slice(f, lf)?);
        let mut out = vec![0.0; q.len()];
        kernel::mix(q, f, &self.0, &mut out);
        Ok(output(out, lq.shape()))
    }

    fn bwd(&self, q: &Tensor, f: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (mut dq, mut df) = (vec![0.0; q.elem_count()], vec![0.0; q.elem_count()]);
        f32_values(&grad, |g| kernel::mix_backward(g, &self.0, &mut dq, &mut df))?;
        let tensor = |values| Tensor::from_vec(values, q.shape(), q.device());
        Ok((q.track_op().then(|| tensor(dq)).transpose()?, f.track_op().then(|| tensor(df)).transpose()?))
    }
}

/// `where(keep, quantized, full)`, element by element (QDrop, arXiv 2203.05740, section 4.2), or the [mix](Keep::Mixed) of
/// both.
///
/// # Errors
/// The shapes differ.
pub fn drop(quantized: &Tensor, full: &Tensor, keep: &Keep) -> Result<Tensor> {
    if quantized.dims() != full.dims() {
        candle_core::bail!("drop: quantized values {:?}, full-precision values {:?}", quantized.dims(), full.dims());
    }
    match keep {
        Keep::All => Ok(quantized.clone()),
        Keep::Random { probability, .. } if *probability >= 1.0 => Ok(quantized.clone()),
        Keep::Mixed { stream } => {
            // Drawn on the host, so that the weights are the same on every device.
            let weights = kernel::weights_of_planes(*stream, planes(quantized)?);
            let weights = Tensor::from_vec(weights, quantized.shape(), quantized.device())?;
            full + ((quantized - full)? * weights)?
        }
        keep if on_kernels(quantized) => {
            quantized.contiguous()?.apply_op2(&full.contiguous()?, DropOp(mask(keep, quantized)?))
        }
        keep => {
            // Drawn on the host, so that the choices are the same on every device.
            let mask = Tensor::from_vec(mask(keep, quantized)?, quantized.shape(), quantized.device())?;
            composite::drop(quantized, full, &mask)
        }
    }
}

/// What is kept of a tensor (N, C) or (N, C, H, W), in the tensor's order.
fn mask(keep: &Keep, like: &Tensor) -> Result<Vec<u8>> {
    match keep {
        Keep::All => Ok(vec![1; like.elem_count()]),
        Keep::Mask(mask) if mask.dims() == like.dims() => mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1(),
        Keep::Mask(mask) => {
            candle_core::bail!("drop: the mask has the shape {:?}, the values {:?}", mask.dims(), like.dims())
        }
        Keep::Mixed { .. } => candle_core::bail!("drop: mixed values are not chosen by a mask"),
        Keep::Random { stream, probability } => {
            let keep = kernel::Keep::Random { stream: *stream, probability: *probability };
            Ok(kernel::mask_of_planes(keep, planes(like)?))
        }
    }
}

/// The dimensions (N, C, H, W) of a tensor (N, C) or (N, C, H, W).
fn planes(x: &Tensor) -> Result<[usize; 4]> {
    match *x.dims() {
        [n, c] => Ok([n, c, 1, 1]),
        [n, c, h, w] => Ok([n, c, h, w]),
        _ => candle_core::bail!("drop: values of shape {:?} are neither (N, C) nor (N, C, H, W)", x.dims()),
    }
}
