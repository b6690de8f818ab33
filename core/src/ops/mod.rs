//! Differentiable tensor operations with the gradients of the reference implementation.
//!
//! Every operation has two implementations with one meaning. On the CPU, in f32, it runs a kernel
//! of `qdrop-kernels` with a hand-written gradient. Anywhere else (CUDA) it is composed of the
//! tensor library's own operations ([`composite`]). Tests hold the two against each other.

mod activation;
mod adaround;
pub mod composite;
mod conv;
mod drop;
mod fake_quantize;
mod linear;
mod loss;
mod pool;
mod storage;

pub use activation::activation;
pub use adaround::{adaround, adaround_regularizer, soft_rounding};
pub use conv::{conv2d, Conv2dGeometry};
pub use drop::{drop, Keep};
pub use fake_quantize::{fake_quantize, Grid};
pub use linear::linear;
pub use loss::reconstruction_loss;
pub use pool::{average_pool2d, max_pool2d, Pool2dGeometry};
pub use qdrop_kernels::activation::Activation;
pub use qdrop_kernels::conv::Padding;
pub(crate) use storage::f32_values;
pub use storage::host_values;

use candle_core::{DType, Result, Tensor};

/// Whether the kernels apply to this tensor.
fn on_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// `x` unchanged, with its gradient multiplied by `factor` (LSQ's gradient scale).
///
/// # Errors
/// The tensor library's.
pub fn scale_gradient(x: &Tensor, factor: f64) -> Result<Tensor> {
    let fixed = x.detach();
    &fixed + ((x - &fixed)? * factor)?
}

/// Zero padding of the last two dimensions.
///
/// # Errors
/// The tensor library's.
pub fn pad2d(x: &Tensor, padding: Padding) -> Result<Tensor> {
    x.pad_with_zeros(2, padding.top, padding.bottom)?.pad_with_zeros(3, padding.left, padding.right)
}
