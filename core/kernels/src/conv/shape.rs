//! The geometry of a convolution.

/// Zero padding of each side, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Padding {
    /// Rows above the image.
    pub top: usize,
    /// Rows below the image.
    pub bottom: usize,
    /// Columns left of the image.
    pub left: usize,
    /// Columns right of the image.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub fn all(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }

    /// Pixels before and after the image along height (axis 0) or width (axis 1).
    #[inline(always)]
    pub fn along(&self, axis: usize) -> [usize; 2] {
        if axis == 0 {
            [self.top, self.bottom]
        } else {
            [self.left, self.right]
        }
    }

    /// Height and width of an image of the given size after padding.
    pub fn padded(&self, height: usize, width: usize) -> [usize; 2] {
        [height + self.top + self.bottom, width + self.left + self.right]
    }
}

/// A geometry that no convolution can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShapeError {
    /// Groups must divide both channel counts.
    #[error("{groups} groups do not divide {in_channels} input and {out_channels} output channels")]
    Groups {
        /// Number of groups.
        groups: usize,
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
    },
    /// The window is larger than the padded image.
    #[error("a window of {window:?} pixels does not fit a padded image of {image:?}")]
    Window {
        /// Height and width of the dilated window.
        window: [usize; 2],
        /// Height and width of the padded image.
        image: [usize; 2],
    },
    /// A size that must be at least 1 is 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

/// Sizes of a convolution of a batch of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Number of images.
    pub batch: usize,
    /// Input channels.
    pub in_channels: usize,
    /// Input height.
    pub in_height: usize,
    /// Input width.
    pub in_width: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero padding.
    pub padding: Padding,
    /// Vertical and horizontal distance of kernel taps.
    pub dilation: [usize; 2],
    /// Number of groups.
    pub groups: usize,
}

impl Conv2dShape {
    /// Checks that such a convolution exists.
    ///
    /// # Errors
    /// See [`ShapeError`].
    pub fn validate(&self) -> Result<(), ShapeError> {
        let positive = [
            ("groups", self.groups),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("kernel", self.kernel[0].min(self.kernel[1])),
            ("stride", self.stride[0].min(self.stride[1])),
            ("dilation", self.dilation[0].min(self.dilation[1])),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(ShapeError::Zero(name));
        }
        if !self.in_channels.is_multiple_of(self.groups) || !self.out_channels.is_multiple_of(self.groups) {
            return Err(ShapeError::Groups {
                groups: self.groups,
                in_channels: self.in_channels,
                out_channels: self.out_channels,
            });
        }
        let (window, image) = (self.window(), self.padding.padded(self.in_height, self.in_width));
        if window[0] > image[0] || window[1] > image[1] {
            return Err(ShapeError::Window { window, image });
        }
        Ok(())
    }

    /// Height and width that the dilated kernel covers.
    pub fn window(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.kernel[i] - 1) * self.dilation[i] + 1)
    }

    /// Output height.
    pub fn out_height(&self) -> usize {
        let image = self.in_height + self.padding.top + self.padding.bottom;
        (image - self.window()[0]) / self.stride[0] + 1
    }

    /// Output width.
    pub fn out_width(&self) -> usize {
        let image = self.in_width + self.padding.left + self.padding.right;
        (image - self.window()[1]) / self.stride[1] + 1
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.in_height * self.in_width
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_per_group() * self.taps()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.out_height() * self.out_width()
    }

    /// Multiply-accumulate operations of one forward pass.
    pub fn macs(&self) -> usize {
        self.output_len() * self.in_per_group() * self.taps()
    }

    pub(super) fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    pub(super) fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn is_depthwise(&self) -> bool {
        self.groups == self.in_channels && self.groups > 1
    }

    /// A convolution that is a plain matrix product on the image as it lies in memory.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == Padding::default()
    }

    pub(super) fn check(&self, x: &[f32], weight: &[f32], out: &[f32]) {
        assert_eq!(x.len(), self.input_len(), "input");
        assert_eq!(weight.len(), self.weight_len(), "weight");
        assert_eq!(out.len(), self.output_len(), "output");
    }
}
