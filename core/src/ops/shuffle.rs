//! The channel shuffle.

use candle_core::{Result, Tensor};

/// Reads the channels of `x` (N, C, H, W), as rows of `groups` groups, column by column: channel `c` of the result is channel
/// `c % groups * (C / groups) + c / groups` of x (ShuffleNet, arXiv 1707.01083, figure 1).
///
/// # Errors
/// `x` is not an image, or the groups do not divide its channels.
pub fn shuffle_channels(x: &Tensor, groups: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    x.reshape((n, groups, c / groups.max(1), h, w))?.transpose(1, 2)?.contiguous()?.reshape((n, c, h, w))
}
