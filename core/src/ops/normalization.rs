//! Normalization over the channels.

use candle_core::{Result, Tensor};

/// A vector with one element for each channel, as a tensor that is broadcast along the channels (axis 1) of tensors of this
/// rank.
pub(crate) fn along_channels(vector: &Tensor, rank: usize) -> Result<Tensor> {
    let mut dims = vec![1; rank.max(2)];
    dims[1] = vector.elem_count();
    vector.reshape(dims)
}

/// Layer normalization over the channels of each pixel of `x` (N, C, H, W), or over the features of (N, C):
/// `(x - mean) / sqrt(variance + eps) * weight + bias` (arXiv 1607.06450, equation 3; the variance is that of the
/// population).
///
/// # Errors
/// `weight` or `bias` do not have one element for each channel.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let deviation = (centered.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?;
    let normal = centered.broadcast_div(&deviation)?;
    normal.broadcast_mul(&along_channels(weight, x.rank())?)?.broadcast_add(&along_channels(bias, x.rank())?)
}
