//! Results of a head of one stage, which gives every anchor a score for every class (RetinaNet, arXiv 1708.02002).

use super::top::{keep_best, sigmoid};
use super::{clip, BoxesError, DeltaCoder, Detection, HeadLevel, ImageSizes, Selection};
use rayon::prelude::*;

/// How the results of a head of one stage are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseSettings {
    /// A class of an anchor counts if its score is larger than this.
    pub score: f32,
    /// Most (anchor, class) pairs of a level before the suppression.
    pub per_level: usize,
    /// How deltas become boxes.
    pub coder: DeltaCoder,
    /// How detections are chosen from those of all levels.
    pub selection: Selection,
}

impl DenseSettings {
    /// mmdetection's for tests.
    pub fn mmdet() -> Self {
        Self { score: 0.05, per_level: 1000, coder: DeltaCoder::mmdet([1.0; 4]), selection: Selection::mmdet() }
    }

    /// torchvision's for tests: the best 300 of an image.
    pub fn torchvision() -> Self {
        Self {
            coder: DeltaCoder::torchvision([1.0; 4]),
            selection: Selection { limit: 300, ..Selection::torchvision() },
            ..Self::mmdet()
        }
    }
}

/// The detections of one image, best first, from the head's outputs for each level. Labels are the indices of the
/// logits.
///
/// # Errors
/// None for these inputs; the type is that of [`Selection::select`].
pub fn detect_dense(
    levels: &[HeadLevel<'_>],
    sizes: ImageSizes,
    settings: &DenseSettings,
) -> Result<Vec<Detection>, BoxesError> {
    let mut candidates = Vec::new();
    for level in levels {
        candidates.extend(best(level, settings).into_iter().map(|(score, place)| {
            let (anchor, deltas) = level.anchor(place / level.classes());
            let bbox = clip(settings.coder.decode(deltas, anchor), sizes.resized);
            Detection { bbox, score, label: place % level.classes() }
        }));
    }
    settings.selection.select(candidates, sizes)
}

/// The best (anchor, class) pairs of a level, with their scores.
fn best(level: &HeadLevel<'_>, settings: &DenseSettings) -> Vec<(f32, usize)> {
    let lowest = surely_below(settings.score);
    let channels = level.logits().par_chunks(level.anchors().cells()).enumerate();
    let mut all: Vec<(f32, usize)> = channels
        .flat_map_iter(|(channel, map)| {
            // Most logits are far too small, and a comparison is cheaper than a sigmoid.
            let likely = map.iter().enumerate().filter(move |(_, logit)| **logit > lowest);
            likely.map(move |(cell, logit)| (sigmoid(*logit), level.place(channel, cell)))
        })
        .filter(|(score, _)| *score > settings.score)
        .collect();
    keep_best(&mut all, settings.per_level);
    all
}

/// A logit whose sigmoid is below `score` by more than any rounding: 1 less than the one whose sigmoid it is.
fn surely_below(score: f32) -> f32 {
    match score > 0.0 && score < 1.0 {
        true => (score / (1.0 - score)).ln() - 1.0,
        false => f32::NEG_INFINITY,
    }
}
