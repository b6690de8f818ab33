//! Batches of images in memory.

/// A batch of images that is read.
pub type Read<'a> = (&'a [f32], Layout);
/// A batch of images that is written.
pub type Written<'a> = (&'a mut [f32], Layout);

/// What becomes of the values that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Replace,
    /// What is written is added to them.
    Add,
}

impl Write {
    /// What stands in the place of `old` after `value` is written.
    #[inline(always)]
    pub fn over(self, old: f32, value: f32) -> f32 {
        match self {
            Self::Replace => value,
            Self::Add => old + value,
        }
    }
}

/// Sizes of a batch of images in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Number of images.
    pub batch: usize,
    /// Height without border.
    pub height: usize,
    /// Width without border.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of zeros on each side.
    pub border: usize,
}

impl Layout {
    /// Elements from one row to the next.
    pub fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.channels
    }

    /// Elements from one image to the next.
    pub fn image(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Elements of all images with their borders.
    pub fn len(&self) -> usize {
        self.batch * self.image()
    }

    /// Whether the batch has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first value of a row, after the border.
    pub fn offset(&self, image: usize, row: usize) -> usize {
        image * self.image() + (row + self.border) * self.row() + self.border * self.channels
    }

    /// Elements of a row without its border.
    pub fn values(&self) -> usize {
        self.width * self.channels
    }
}
