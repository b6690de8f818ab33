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
    /// Each with a probability, by its own random number.
    Random {
        /// Source of the random numbers; element i of the tensor takes number i.
        stream: Stream,
        /// Probability of keeping the quantized value.
        probability: f32,
    },
    /// Those whose byte in this tensor of the same shape is not zero.
    Mask(Tensor),
}

enum Mask {
    Random(Stream, f32),
    Bytes(Vec<u8>),
}

impl Mask {
    fn keep(&self) -> kernel::Keep<'_> {
        match self {
            Self::Random(stream, probability) => kernel::Keep::Random { stream: *stream, probability: *probability },
            Self::Bytes(bytes) => kernel::Keep::Mask(bytes),
        }
    }
}

struct DropOp(Mask);

impl CustomOp2 for DropOp {
    fn name(&self) -> &'static str {
        "drop"
    }

    fn cpu_fwd(&self, q: &CpuStorage, lq: &Layout, f: &CpuStorage, lf: &Layout) -> Result<(CpuStorage, Shape)> {
        let (q, f) = (slice(q, lq)?, slice(f, lf)?);
        let mut out = vec![0.0; q.len()];
        kernel::mix(q, f, self.0.keep(), &mut out);
        Ok(output(out, lq.shape()))
    }

    fn bwd(&self, q: &Tensor, f: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (mut dq, mut df) = (vec![0.0; q.elem_count()], vec![0.0; q.elem_count()]);
        f32_values(&grad, |g| kernel::mix_backward(g, self.0.keep(), &mut dq, &mut df))?;
        let tensor = |values| Tensor::from_vec(values, q.shape(), q.device());
        Ok((q.track_op().then(|| tensor(dq)).transpose()?, f.track_op().then(|| tensor(df)).transpose()?))
    }
}

/// `where(keep, quantized, full)`, element by element (QDrop, arXiv 2203.05740, section 4.2).
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
        keep if on_kernels(quantized) => {
            let mask = match keep {
                Keep::Random { stream, probability } => Mask::Random(*stream, *probability),
                Keep::Mask(mask) if mask.dims() == quantized.dims() => Mask::Bytes(mask.flatten_all()?.to_vec1()?),
                _ => candle_core::bail!("drop: the mask has another shape than the values {:?}", quantized.dims()),
            };
            quantized.contiguous()?.apply_op2(&full.contiguous()?, DropOp(mask))
        }
        keep => composite::drop(quantized, full, &device_mask(keep, quantized)?),
    }
}

/// The mask as a tensor on the device of `like`. The numbers are drawn on the host: they are the
/// same on every device.
fn device_mask(keep: &Keep, like: &Tensor) -> Result<Tensor> {
    match keep {
        Keep::Mask(mask) => mask.to_dtype(DType::U8)?.to_device(like.device()),
        Keep::All => Tensor::ones(like.shape(), DType::U8, like.device()),
        Keep::Random { stream, probability } => {
            let n = like.elem_count();
            let mut mask = vec![0.0; n];
            let keep = kernel::Keep::Random { stream: *stream, probability: *probability };
            kernel::mix(&vec![1.0; n], &vec![0.0; n], keep, &mut mask);
            let bytes: Vec<u8> = mask.into_iter().map(|v| v as u8).collect();
            Tensor::from_vec(bytes, like.shape(), like.device())
        }
    }
}
