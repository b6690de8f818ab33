//! Differentiable tensor operations with the gradients of the reference implementation.
//!
//! Every operation has two implementations of the same function. On the CPU, in f32, a kernel of
//! `qdrop-kernels` with a hand-written gradient computes it. On other devices (CUDA) it is composed of
//! candle's own operations ([`composite`]). Tests compare the two.

mod activation;
mod adaround;
mod clip;
pub mod composite;
mod conv;
mod drop;
mod fake_quantize;
mod geometry;
mod grid;
mod linear;
mod loss;
mod normalization;
mod pool;
mod shuffle;
mod storage;

pub use activation::activation;
pub use adaround::{adaround, adaround_regularizer, soft_rounding};
pub(crate) use clip::bounds;
pub use clip::clip;
pub use conv::conv2d;
pub use drop::{drop, Keep};
pub use fake_quantize::fake_quantize;
pub use geometry::{Conv2dGeometry, Pool2dGeometry};
pub use grid::Grid;
pub use linear::linear;
pub use loss::reconstruction_loss;
pub(crate) use normalization::along_channels;
pub use normalization::layer_norm;
pub use pool::{average_pool2d, global_average_pool, max_pool2d};
pub use qdrop_kernels::activation::Activation;
pub use qdrop_kernels::conv::Padding;
pub use shuffle::shuffle_channels;
pub use storage::{add_channel_sums, host_values};
pub(crate) use storage::{all_host_values, f32_values, gradient, output, slice};

use candle_core::{DType, Result, Tensor};

/// Whether the kernels can compute with this tensor.
fn on_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Returns `x` and multiplies its gradient by `factor` (LSQ's gradient scale, arXiv 1902.08153).
///
/// # Errors
/// An operation of candle fails.
pub fn scale_gradient(x: &Tensor, factor: f64) -> Result<Tensor> {
    let fixed = x.detach();
    &fixed + ((x - &fixed)? * factor)?
}

/// The sum of tensors of one shape; `None` if there are none.
pub(crate) fn total(
    terms: impl IntoIterator<Item = crate::error::Result<Tensor>>,
) -> crate::error::Result<Option<Tensor>> {
    let mut terms = terms.into_iter();
    let Some(first) = terms.next().transpose()? else { return Ok(None) };
    terms.try_fold(first, |sum, term| Ok((sum + term?)?)).map(Some)
}

/// Zero padding of the last two dimensions.
///
/// # Errors
/// An operation of candle fails.
pub fn pad2d(x: &Tensor, padding: Padding) -> Result<Tensor> {
    x.pad_with_zeros(2, padding.top, padding.bottom)?.pad_with_zeros(3, padding.left, padding.right)
}

/// Repeats every pixel of `x` (N, C, H, W) `factor` times vertically and horizontally.
///
/// # Errors
/// An operation of candle fails.
pub fn upsample_nearest(x: &Tensor, factor: [usize; 2]) -> Result<Tensor> {
    let repeated = |x: &Tensor, axis: usize, factor: usize| {
        let picks: Vec<u32> = (0..x.dim(axis)? * factor).map(|i| (i / factor) as u32).collect();
        x.contiguous()?.index_select(&Tensor::new(picks, x.device())?, axis)
    };
    repeated(&repeated(x, 2, factor[0])?, 3, factor[1])
}
