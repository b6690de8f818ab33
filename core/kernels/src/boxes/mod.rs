//! Operations of detection heads on plain slices: anchors, deltas, non-maximum suppression, RoIAlign, and the results
//! of whole heads.
//!
//! Libraries of detectors agree on what these operations do, but not on details that change results: where clamps are,
//! when boxes are rescaled, how classes are kept apart. Each settings struct has the constructors `mmdet()` for
//! networks of mmdetection 2 and `torchvision()` for those of torchvision, and its fields can be set one by one.
//!
//! The maps of a head are those of one image, as slices of shape (C, H, W). The channel of anchor `a` and class `k` is
//! `a * classes + k`, that of delta `j` is `a * 4 + j`. Lists of anchors are in the order (y, x, anchor).
//!
//! Sorts are stable: of equal scores the one that comes first wins. Scores that are not numbers sort before all others,
//! as in PyTorch, and never pass a threshold.

mod anchors;
mod classify;
mod deltas;
mod dense;
mod error;
mod geometry;
mod level;
mod nms;
mod propose;
mod roi_align;
mod select;
#[cfg(test)]
mod tests;
mod top;

pub use anchors::{AnchorRule, LevelAnchors};
pub use classify::{classify, Background, ClassifySettings};
pub use deltas::DeltaCoder;
pub use dense::{detect_dense, DenseSettings};
pub use error::BoxesError;
pub use geometry::{area, clip, iou, BBox, SizeRule};
pub use level::HeadLevel;
pub use nms::{grouped_nms, nms, Grouping};
pub use propose::{propose, ProposalSettings, Proposals};
pub use roi_align::{roi_align, FeatureMap, LevelRule, RoiAlignSettings, Sampling};
pub use select::{Detection, ImageSizes, Rescale, Selection};
pub use top::{descending, top_k};
