//! From scored boxes to the detections of an image.

use super::nms::{grouped_nms, Grouping};
use super::{BBox, BoxesError};

/// A found object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Where it is.
    pub bbox: BBox,
    /// How sure the network is, from 0 to 1.
    pub score: f32,
    /// Its class, as the network counts classes.
    pub label: usize,
}

/// Heights and widths of an image: as the network sees it, without padding, and as it was before it was resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSizes {
    /// Height and width after resizing.
    pub resized: [usize; 2],
    /// Height and width of the original picture.
    pub original: [usize; 2],
}

/// When and how boxes become those of the original picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescale {
    /// They are divided by the resize's factors before the suppression (mmdetection).
    DivideBeforeNms,
    /// They are multiplied by the inverse factors after it (torchvision).
    MultiplyAfterNms,
}

/// How detections are chosen from candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Boxes of one class with a larger intersection over union than this suppress each other.
    pub iou: f64,
    /// Most detections of an image.
    pub limit: usize,
    /// How classes are kept apart.
    pub grouping: Grouping,
    /// When boxes are rescaled.
    pub rescale: Rescale,
}

impl Selection {
    /// mmdetection's: 0.5, and the best 100.
    pub fn mmdet() -> Self {
        Self { iou: 0.5, limit: 100, grouping: Grouping::mmdet(), rescale: Rescale::DivideBeforeNms }
    }

    /// torchvision's: 0.5, and the best 100.
    pub fn torchvision() -> Self {
        Self { iou: 0.5, limit: 100, grouping: Grouping::torchvision(), rescale: Rescale::MultiplyAfterNms }
    }

    /// The detections among candidates whose boxes are those of the resized image, best first, with boxes of the
    /// original.
    ///
    /// # Errors
    /// None for these inputs; the type is that of [`grouped_nms`].
    pub fn select(&self, mut candidates: Vec<Detection>, sizes: ImageSizes) -> Result<Vec<Detection>, BoxesError> {
        if self.rescale == Rescale::DivideBeforeNms {
            candidates.iter_mut().for_each(|d| d.bbox = divided(d.bbox, sizes));
        }
        let boxes: Vec<BBox> = candidates.iter().map(|d| d.bbox).collect();
        let scores: Vec<f32> = candidates.iter().map(|d| d.score).collect();
        let labels: Vec<usize> = candidates.iter().map(|d| d.label).collect();
        let kept = grouped_nms(&boxes, &scores, &labels, self.grouping, self.iou, self.limit)?;
        let mut detections: Vec<Detection> = kept.into_iter().map(|place| candidates[place]).collect();
        if self.rescale == Rescale::MultiplyAfterNms {
            detections.iter_mut().for_each(|d| d.bbox = multiplied(d.bbox, sizes));
        }
        Ok(detections)
    }
}

/// A box of the original picture, with factors that are computed in f64 and rounded to f32.
fn divided([x1, y1, x2, y2]: BBox, sizes: ImageSizes) -> BBox {
    let [y, x] = [0, 1].map(|axis| (sizes.resized[axis] as f64 / sizes.original[axis] as f64) as f32);
    [x1 / x, y1 / y, x2 / x, y2 / y]
}

/// A box of the original picture, with factors that are computed in f32.
fn multiplied([x1, y1, x2, y2]: BBox, sizes: ImageSizes) -> BBox {
    let [y, x] = [0, 1].map(|axis| sizes.original[axis] as f32 / sizes.resized[axis] as f32);
    [x1 * x, y1 * y, x2 * x, y2 * y]
}
