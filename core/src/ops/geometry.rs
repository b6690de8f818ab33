//! Geometry of convolutions and pooling.

use candle_core::{Error, Result, Tensor};
use qdrop_kernels::conv::{Conv2dShape, Padding};
use qdrop_kernels::pool::Pool2dShape;

/// Geometry of a convolution, without its kernel size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Conv2dGeometry {
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero padding on each side.
    pub padding: Padding,
    /// Vertical and horizontal distance between kernel taps.
    pub dilation: [usize; 2],
    /// Number of groups; each reads its share of the input channels.
    pub groups: usize,
}

impl Default for Conv2dGeometry {
    fn default() -> Self {
        Self { stride: [1, 1], padding: Padding::default(), dilation: [1, 1], groups: 1 }
    }
}

impl Conv2dGeometry {
    /// The sizes of the convolution of `x` (N, C, H, W) with `weight` (O, C / groups, KH, KW).
    pub(super) fn shape(&self, x: &Tensor, weight: &Tensor) -> Result<Conv2dShape> {
        let (batch, in_channels, in_height, in_width) = x.dims4()?;
        let (out_channels, per_group, kh, kw) = weight.dims4()?;
        let shape = Conv2dShape {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel: [kh, kw],
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        };
        shape.validate().map_err(Error::wrap)?;
        if per_group * self.groups != in_channels {
            candle_core::bail!(
                "conv2d: a weight of shape {:?} with {} groups expects {} input channels, not {in_channels}",
                weight.dims(),
                self.groups,
                per_group * self.groups
            );
        }
        Ok(shape)
    }
}

/// Geometry of pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pool2dGeometry {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding of each side.
    pub padding: Padding,
    /// Whether windows may end beyond the padded image.
    pub ceil_mode: bool,
    /// Whether padding pixels count in the divisor of an average.
    pub count_include_pad: bool,
}

impl Pool2dGeometry {
    pub(super) fn shape(&self, x: &Tensor) -> Result<Pool2dShape> {
        let (n, c, h, w) = x.dims4()?;
        self.of_planes(n * c, h, w)
    }

    /// The sizes of the pooling of `planes` image planes.
    ///
    /// # Errors
    /// The window does not fit, or the padding exceeds half of it.
    pub fn of_planes(&self, planes: usize, height: usize, width: usize) -> Result<Pool2dShape> {
        let shape = Pool2dShape {
            planes,
            in_height: height,
            in_width: width,
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            ceil_mode: self.ceil_mode,
            count_include_pad: self.count_include_pad,
        };
        shape.as_conv().validate().map_err(Error::wrap)?;
        // As PyTorch's limit of half of the window, for each side.
        let exceeds = |axis: usize| self.padding.along(axis).iter().any(|pixels| 2 * pixels > self.kernel[axis]);
        if (0..2).any(exceeds) {
            candle_core::bail!("pooling: {:?} exceeds half of the window {:?}", self.padding, self.kernel);
        }
        Ok(shape)
    }
}
