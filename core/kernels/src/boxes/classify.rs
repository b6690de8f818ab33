//! Results of a box head: classes and finer boxes for the proposals of an image (Fast R-CNN, arXiv 1504.08083).

use super::error::{check_len, check_positive};
use super::{clip, BBox, BoxesError, DeltaCoder, Detection, ImageSizes, Selection, SizeRule};

/// Where the logit of the background is among those of the classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// At index 0, so that labels begin at 1. The background has deltas, which are never read.
    First,
    /// After all classes, so that labels begin at 0. The background has no deltas.
    Last,
}

/// How the results of a box head are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifySettings {
    /// Where the background is.
    pub background: Background,
    /// A class counts if its score is larger than this.
    pub score: f32,
    /// How deltas become boxes.
    pub coder: DeltaCoder,
    /// Which boxes are too small, before they are rescaled.
    pub size: Option<SizeRule>,
    /// How detections are chosen from all (proposal, class) pairs that are left.
    pub selection: Selection,
}

impl ClassifySettings {
    /// mmdetection's for tests.
    pub fn mmdet() -> Self {
        Self {
            background: Background::Last,
            score: 0.05,
            coder: DeltaCoder::mmdet([0.1, 0.1, 0.2, 0.2]),
            size: None,
            selection: Selection::mmdet(),
        }
    }

    /// torchvision's for tests.
    pub fn torchvision() -> Self {
        Self {
            background: Background::First,
            score: 0.05,
            coder: DeltaCoder::torchvision([10.0, 10.0, 5.0, 5.0]),
            size: Some(SizeRule::AtLeast(1e-2)),
            selection: Selection::torchvision(),
        }
    }
}

/// The detections of one image, best first, from what the box head says about each of its proposals: `classes` logits,
/// background included, and four deltas for each class that has them, see [`Background`].
///
/// # Errors
/// The slices do not have these sizes, or there is no class beside the background.
pub fn classify(
    proposals: &[BBox],
    classes: usize,
    logits: &[f32],
    deltas: &[f32],
    sizes: ImageSizes,
    settings: &ClassifySettings,
) -> Result<Vec<Detection>, BoxesError> {
    let foreground = classes.saturating_sub(1);
    check_positive("the number of classes beside the background", foreground)?;
    let (labels, with_deltas) = match settings.background {
        Background::First => (1..classes, classes),
        Background::Last => (0..foreground, foreground),
    };
    check_len("logits of proposals", logits.len(), &[proposals.len(), classes])?;
    check_len("deltas of proposals", deltas.len(), &[proposals.len(), with_deltas, 4])?;
    let rows = logits.chunks_exact(classes).zip(deltas.chunks_exact(4 * with_deltas));
    let (mut candidates, mut scores) = (Vec::new(), vec![0.0; classes]);
    for (proposal, (logits, deltas)) in proposals.iter().zip(rows) {
        softmax(logits, &mut scores);
        for label in labels.clone().filter(|label| scores[*label] > settings.score) {
            let deltas = [0, 1, 2, 3].map(|j| deltas[4 * label + j]);
            let bbox = clip(settings.coder.decode(deltas, *proposal), sizes.resized);
            if settings.size.is_none_or(|rule| rule.allows(bbox)) {
                candidates.push(Detection { bbox, score: scores[label], label });
            }
        }
    }
    settings.selection.select(candidates, sizes)
}

/// Probabilities of logits.
fn softmax(logits: &[f32], out: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    out.iter_mut().zip(logits).for_each(|(p, logit)| *p = (logit - largest).exp());
    let sum: f32 = out.iter().sum();
    out.iter_mut().for_each(|p| *p /= sum);
}
