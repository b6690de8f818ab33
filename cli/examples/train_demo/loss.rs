//! The loss of RetinaNet (arXiv 1708.02002): which anchors are to find which objects, focal loss of the classes and absolute
//! differences of the deltas.

use crate::pictures::{Object, Picture};
use anyhow::Result;
use candle_core::{Device, Tensor};
use qdrop_core::kernels::boxes::{iou, BBox, LevelAnchors};

/// Anchors with at least this intersection over union with an object are to find it (section 4).
const FOUND: f32 = 0.5;
/// Anchors below it are background; those between count for nothing.
const BACKGROUND: f32 = 0.4;
/// The focal loss's weight of objects, against 1 - it for the background.
const ALPHA: f64 = 0.25;

/// The loss of a batch, divided by the number of anchors that are to find something, as its parts: classes and deltas.
///
/// `maps` are the logits (N, anchors * classes, H, W) and deltas (N, anchors * 4, H, W) of each level.
pub fn loss(
    maps: &[[Tensor; 2]],
    anchors: &[LevelAnchors],
    pictures: &[Picture],
    classes: usize,
) -> Result<[Tensor; 2]> {
    let all: Vec<BBox> = anchors.iter().flat_map(LevelAnchors::iter).collect();
    let assigned: Vec<Vec<Part>> = pictures.iter().map(|picture| assign(&all, &picture.objects)).collect();
    let found = assigned.iter().flatten().filter(|part| matches!(part, Part::Object(_))).count();
    let (mut losses, mut first) = (Vec::new(), 0);
    for (level, [logits, deltas]) in anchors.iter().zip(maps) {
        let (n, _, height, width) = logits.dims4()?;
        let (cells, each) = (height * width, level.per_cell());
        let mut wanted = vec![0.0_f32; n * each * classes * cells];
        let mut counts = vec![0.0_f32; n * each * cells];
        let mut moves = vec![0.0_f32; n * each * 4 * cells];
        let mut moved = vec![0.0_f32; n * each * cells];
        for (image, (parts, picture)) in assigned.iter().zip(pictures).enumerate() {
            for (i, part) in parts[first..first + level.count()].iter().enumerate() {
                let (cell, anchor) = (i / each, image * each + i % each);
                let at = anchor * cells + cell;
                match *part {
                    Part::Nothing => {}
                    Part::Background => counts[at] = 1.0,
                    Part::Object(o) => {
                        let object = &picture.objects[o];
                        (counts[at], moved[at]) = (1.0, 1.0);
                        wanted[(anchor * classes + object.label) * cells + cell] = 1.0;
                        for (j, delta) in encode(level.get(i), object.bbox).into_iter().enumerate() {
                            moves[(anchor * 4 + j) * cells + cell] = delta;
                        }
                    }
                }
            }
        }
        first += level.count();
        let tensor =
            |values: Vec<f32>, channels: usize| Tensor::from_vec(values, (n, each, channels, cells), &Device::Cpu);
        let logits = logits.reshape((n, each, classes, cells))?;
        let focal = focal(&logits, &tensor(wanted, classes)?)?.broadcast_mul(&tensor(counts, 1)?)?.sum_all()?;
        let deltas = deltas.reshape((n, each, 4, cells))?;
        let distance = (deltas - tensor(moves, 4)?)?.abs()?.broadcast_mul(&tensor(moved, 1)?)?.sum_all()?;
        losses.push([focal, distance]);
    }
    let sum = |part: usize| -> Result<Tensor> {
        let parts: Vec<&Tensor> = losses.iter().map(|level| &level[part]).collect();
        Ok((Tensor::stack(&parts, 0)?.sum_all()? / found.max(1) as f64)?)
    };
    Ok([sum(0)?, sum(1)?])
}

/// What an anchor is to find.
#[derive(Clone, Copy)]
enum Part {
    Background,
    /// It counts for nothing.
    Nothing,
    /// The object of this index.
    Object(usize),
}

/// What each anchor is to find: the object that it overlaps most, if enough. The best anchors of an object are always to find it.
fn assign(anchors: &[BBox], objects: &[Object]) -> Vec<Part> {
    let overlaps: Vec<Vec<f32>> =
        objects.iter().map(|object| anchors.iter().map(|anchor| iou(*anchor, object.bbox)).collect()).collect();
    let part = |i: usize| {
        let best = (0..objects.len()).max_by(|a, b| overlaps[*a][i].total_cmp(&overlaps[*b][i]));
        match best.map(|o| (o, overlaps[o][i])) {
            Some((o, overlap)) if overlap >= FOUND => Part::Object(o),
            Some((_, overlap)) if overlap >= BACKGROUND => Part::Nothing,
            _ => Part::Background,
        }
    };
    let mut parts: Vec<Part> = (0..anchors.len()).map(part).collect();
    for (o, overlaps) in overlaps.iter().enumerate() {
        let best = overlaps.iter().copied().fold(0.0, f32::max);
        for (part, overlap) in parts.iter_mut().zip(overlaps) {
            if best > 0.0 && *overlap == best {
                *part = Part::Object(o);
            }
        }
    }
    parts
}

/// The deltas that make an object's box of an anchor (R-CNN, arXiv 1311.2524, appendix C).
fn encode(anchor: BBox, object: BBox) -> [f32; 4] {
    let of = |b: BBox| [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0, b[2] - b[0], b[3] - b[1]];
    let ([ax, ay, aw, ah], [x, y, w, h]) = (of(anchor), of(object));
    [(x - ax) / aw, (y - ay) / ah, (w / aw).ln(), (h / ah).ln()]
}

/// The focal loss with gamma 2 (equation 5) of each logit, whose target is 0 or 1.
fn focal(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    // Cross entropy, so that no exponential overflows.
    let magnitude = logits.abs()?;
    let entropy = ((logits.relu()? - (logits * targets)?)? + (magnitude.neg()?.exp()? + 1.0)?.log()?)?;
    let wrong = (candle_nn::ops::sigmoid(logits)? - targets)?.sqr()?;
    let weight = targets.affine(2.0 * ALPHA - 1.0, 1.0 - ALPHA)?;
    (entropy * wrong)? * weight
}
