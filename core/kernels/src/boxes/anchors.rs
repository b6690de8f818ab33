//! Anchors: the boxes that a head's deltas are relative to.

use super::error::{check_positive, BoxesError};
use super::BBox;

/// The anchors of one pyramid level at the origin, and how far apart their copies are.
///
/// There is one anchor for each ratio `r` and scale `s`: `base * s / sqrt(r)` wide and `base * s * sqrt(r)` high, all
/// ratios after each other and the scales inside (Faster R-CNN, arXiv 1506.01497, section 3.1.1).
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorRule {
    /// Size in pixels that the scales multiply.
    pub base: f32,
    /// Sizes of the anchors, in multiples of `base`.
    pub scales: Vec<f32>,
    /// Height divided by width.
    pub ratios: Vec<f32>,
    /// Round the edges of the anchor at the origin to whole pixels, halves to the even one.
    pub rounded: bool,
    /// Pixels from one anchor to the next; without it, the padded image's size divided by the map's, rounded down.
    pub stride: Option<usize>,
}

/// Height divided by width of the usual three anchors.
const RATIOS: [f32; 3] = [0.5, 1.0, 2.0];

impl AnchorRule {
    /// mmdetection's anchors of a level: sizes in multiples of its stride.
    pub fn mmdet(stride: usize, scales: &[f32]) -> Self {
        let (scales, ratios) = (scales.to_vec(), RATIOS.to_vec());
        Self { base: stride as f32, scales, ratios, rounded: false, stride: Some(stride) }
    }

    /// torchvision's anchors of a level: sizes in pixels.
    pub fn torchvision(sizes: &[f32]) -> Self {
        Self { base: 1.0, scales: sizes.to_vec(), ratios: RATIOS.to_vec(), rounded: true, stride: None }
    }

    /// The five levels of mmdetection's Faster R-CNN with a feature pyramid: strides 4 to 64, scale 8.
    pub fn mmdet_rpn() -> Vec<Self> {
        (2..7).map(|level| Self::mmdet(1 << level, &[8.0])).collect()
    }

    /// The five levels of mmdetection's RetinaNet: strides 8 to 128, scales 4, 4 * 2^(1/3) and 4 * 2^(2/3).
    pub fn mmdet_retina() -> Vec<Self> {
        let scales = [0.0, 1.0, 2.0].map(|third: f64| (4.0 * (third / 3.0).exp2()) as f32);
        (3..8).map(|level| Self::mmdet(1 << level, &scales)).collect()
    }

    /// The five levels of torchvision's Faster R-CNN with a feature pyramid: 32 to 512 pixels.
    pub fn torchvision_rpn() -> Vec<Self> {
        (5..10).map(|level| Self::torchvision(&[(1 << level) as f32])).collect()
    }

    /// The five levels of torchvision's RetinaNet: sizes `s`, `s * 2^(1/3)` and `s * 2^(2/3)`, rounded down, for `s`
    /// from 32 to 512 pixels.
    pub fn torchvision_retina() -> Vec<Self> {
        let sizes =
            |level| [0.0, 1.0, 2.0].map(|third: f64| (f64::from(1 << level) * (third / 3.0).exp2()).floor() as f32);
        (5..10).map(|level| Self::torchvision(&sizes(level))).collect()
    }

    /// The anchors of a level whose feature map has height and width `map`, in an image that is padded to `padded`.
    ///
    /// # Errors
    /// There is no anchor, or the map is empty.
    pub fn level(&self, map: [usize; 2], padded: [usize; 2]) -> Result<LevelAnchors, BoxesError> {
        check_positive("the number of anchors", self.scales.len().min(self.ratios.len()))?;
        check_positive("the height and width of a head's map", map[0].min(map[1]))?;
        let stride = match self.stride {
            Some(stride) => [stride; 2],
            None => [padded[0] / map[0], padded[1] / map[1]],
        };
        Ok(LevelAnchors { cell: self.cell(), map, stride })
    }

    /// The anchors at the origin.
    fn cell(&self) -> Vec<BBox> {
        let edge = |size: f32| match self.rounded {
            true => (size / 2.0).round_ties_even(),
            false => size / 2.0,
        };
        let of_ratio = |ratio: f32| {
            let (high, wide) = (ratio.sqrt(), 1.0 / ratio.sqrt());
            self.scales.iter().map(move |scale| {
                let (x, y) = (edge(self.base * wide * scale), edge(self.base * high * scale));
                [-x, -y, x, y]
            })
        };
        self.ratios.iter().copied().flat_map(of_ratio).collect()
    }
}

/// All anchors of a level, without storing them, in the order (y, x, anchor).
///
/// The anchors of cell (y, x) are centred on pixel (x * stride, y * stride).
#[derive(Debug, Clone, PartialEq)]
pub struct LevelAnchors {
    cell: Vec<BBox>,
    map: [usize; 2],
    stride: [usize; 2],
}

impl LevelAnchors {
    /// Anchors of a cell; at least 1.
    pub fn per_cell(&self) -> usize {
        self.cell.len()
    }

    /// Cells of the map: height times width; at least 1.
    pub fn cells(&self) -> usize {
        self.map[0].saturating_mul(self.map[1])
    }

    /// Anchors of the level; at least 1.
    pub fn count(&self) -> usize {
        self.cells().saturating_mul(self.per_cell())
    }

    /// The anchor at a place of the list, which may be beyond its end.
    pub fn get(&self, index: usize) -> BBox {
        let (cell, anchor) = (index / self.cell.len(), index % self.cell.len());
        let y = (cell / self.map[1]).saturating_mul(self.stride[0]) as f32;
        let x = (cell % self.map[1]).saturating_mul(self.stride[1]) as f32;
        let [x1, y1, x2, y2] = self.cell[anchor];
        [x + x1, y + y1, x + x2, y + y2]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = BBox> + '_ {
        (0..self.count()).map(|index| self.get(index))
    }
}
