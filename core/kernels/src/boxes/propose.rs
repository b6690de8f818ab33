//! Proposals of a region proposal network: boxes that may hold an object, without classes (Faster R-CNN, arXiv
//! 1506.01497, section 3.1).

use super::nms::{grouped_nms, Grouping};
use super::top::{keep_best, sigmoid};
use super::{clip, BBox, BoxesError, DeltaCoder, HeadLevel, SizeRule};

/// How proposals are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProposalSettings {
    /// Most boxes of a level before the suppression.
    pub per_level: usize,
    /// Rank the boxes of a level by the sigmoid, where large logits are equal, and not by the logit.
    pub rank_by_sigmoid: bool,
    /// How deltas become boxes.
    pub coder: DeltaCoder,
    /// Which boxes are too small, after they are clipped to the image.
    pub size: SizeRule,
    /// Boxes of one level with a larger intersection over union than this suppress each other.
    pub iou: f64,
    /// How levels are kept apart.
    pub grouping: Grouping,
    /// Most proposals of an image.
    pub limit: usize,
}

impl ProposalSettings {
    /// mmdetection's for tests: 1000 of each level, then 1000.
    pub fn mmdet() -> Self {
        Self {
            per_level: 1000,
            rank_by_sigmoid: true,
            coder: DeltaCoder::mmdet([1.0; 4]),
            size: SizeRule::Above(0.0),
            iou: 0.7,
            grouping: Grouping::mmdet(),
            limit: 1000,
        }
    }

    /// torchvision's for tests: 1000 of each level, then 1000.
    pub fn torchvision() -> Self {
        Self {
            rank_by_sigmoid: false,
            coder: DeltaCoder::torchvision([1.0; 4]),
            size: SizeRule::AtLeast(1e-3),
            grouping: Grouping::torchvision(),
            ..Self::mmdet()
        }
    }
}

/// Proposals of an image, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proposals {
    /// Where they are in the resized image.
    pub boxes: Vec<BBox>,
    /// Their scores, from 0 to 1.
    pub scores: Vec<f32>,
}

/// The proposals of one image, from the outputs of the network for each level (one class). `image` is the height and
/// width of the resized image without padding.
///
/// # Errors
/// A level has more than one class.
pub fn propose(
    levels: &[HeadLevel<'_>],
    image: [usize; 2],
    settings: &ProposalSettings,
) -> Result<Proposals, BoxesError> {
    let (mut boxes, mut scores, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for (group, level) in levels.iter().enumerate() {
        if level.classes() != 1 {
            return Err(BoxesError::Length { what: "classes of proposals", expected: 1, actual: level.classes() });
        }
        for (rank, place) in best(level, settings) {
            let (anchor, deltas) = level.anchor(place);
            let bbox = clip(settings.coder.decode(deltas, anchor), image);
            let score = if settings.rank_by_sigmoid { rank } else { sigmoid(rank) };
            if settings.size.allows(bbox) && !score.is_nan() {
                boxes.push(bbox);
                scores.push(score);
                groups.push(group);
            }
        }
    }
    let kept = grouped_nms(&boxes, &scores, &groups, settings.grouping, settings.iou, settings.limit)?;
    Ok(Proposals {
        boxes: kept.iter().map(|place| boxes[*place]).collect(),
        scores: kept.iter().map(|place| scores[*place]).collect(),
    })
}

/// The best anchors of a level, each with what it is ranked by.
fn best(level: &HeadLevel<'_>, settings: &ProposalSettings) -> Vec<(f32, usize)> {
    let rank = |logit: f32| if settings.rank_by_sigmoid { sigmoid(logit) } else { logit };
    let channels = level.logits().chunks_exact(level.anchors().cells()).enumerate();
    let mut all: Vec<(f32, usize)> = channels
        .flat_map(|(channel, map)| {
            map.iter().enumerate().map(move |(cell, logit)| (rank(*logit), level.place(channel, cell)))
        })
        .collect();
    keep_best(&mut all, settings.per_level);
    all
}
