//! Non-maximum suppression: of boxes that overlap, only the best one stays.

use super::error::{check_len, BoxesError};
use super::geometry::{area, overlap, BBox};
use super::top::{descending, top_k};
use std::collections::BTreeMap;

/// Places of the boxes that stay, best first, at most `limit` of them.
///
/// Going from the best score to the worst, a box stays if its intersection over union with none of those that stay is
/// larger than `threshold`. The ratio is computed in f32 and compared in f64.
///
/// # Errors
/// There are not as many scores as boxes.
pub fn nms(boxes: &[BBox], scores: &[f32], threshold: f64, limit: usize) -> Result<Vec<usize>, BoxesError> {
    check_len("scores of boxes", scores.len(), &[boxes.len()])?;
    let order = top_k(scores, scores.len());
    let sorted: Vec<BBox> = order.iter().map(|place| boxes[*place]).collect();
    let edges = Edges::new(&sorted);
    let threshold = largest_below(threshold);
    let (mut removed, mut kept) = (vec![0; sorted.len()], Vec::new());
    for (i, best) in sorted.iter().enumerate() {
        if kept.len() >= limit {
            break;
        }
        if removed[i] == 0 {
            kept.push(order[i]);
            edges.mark(i + 1, *best, threshold, &mut removed);
        }
    }
    Ok(kept)
}

/// The largest f32 that is not above `threshold`: an f32 is above the one exactly if it is above the other.
fn largest_below(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    match f64::from(nearest) > threshold {
        true => nearest.next_down(),
        false => nearest,
    }
}

/// Boxes edge by edge, so that loops over them are vectorized.
struct Edges {
    edges: [Vec<f32>; 4],
    areas: Vec<f32>,
}

impl Edges {
    fn new(boxes: &[BBox]) -> Self {
        let edges = [0, 1, 2, 3].map(|edge| boxes.iter().map(|b| b[edge]).collect());
        Self { edges, areas: boxes.iter().map(|b| area(*b)).collect() }
    }

    /// Marks the boxes from `start` on that overlap `best`.
    fn mark(&self, start: usize, best: BBox, threshold: f32, removed: &mut [u32]) {
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|edge| &self.edges[edge][start..]);
        let (areas, removed) = (&self.areas[start..], &mut removed[start..]);
        let best_area = area(best);
        let corners = x1.iter().zip(y1).zip(x2.iter().zip(y2));
        for ((((x1, y1), (x2, y2)), area), removed) in corners.zip(areas).zip(removed) {
            *removed |= u32::from(overlap(best, best_area, [*x1, *y1, *x2, *y2], *area) > threshold);
        }
    }
}

/// How boxes of different groups (classes, or levels of the pyramid) are kept from suppressing each other.
///
/// A box can be shifted by its group times one more than the largest coordinate of all boxes, after which groups do not
/// overlap. The shift rounds edges to coarser numbers, which changes overlaps a little; results agree with a library
/// only if the same boxes are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// The largest number of boxes that are shifted and then treated together. If there are more, groups are treated
    /// one by one.
    pub together: usize,
    /// Shift the boxes also where groups are treated one by one.
    pub always_shift: bool,
}

impl Grouping {
    /// mmcv's `batched_nms`: boxes are always shifted, and fewer than 10,000 are treated together.
    pub fn mmdet() -> Self {
        Self { together: 9_999, always_shift: true }
    }

    /// torchvision's `batched_nms` on a CPU: up to 1000 boxes are shifted and treated together.
    pub fn torchvision() -> Self {
        Self { together: 1_000, always_shift: false }
    }
}

/// As [`nms`], but a box only suppresses boxes of its own group.
///
/// # Errors
/// There are not as many scores or groups as boxes.
pub fn grouped_nms(
    boxes: &[BBox],
    scores: &[f32],
    groups: &[usize],
    grouping: Grouping,
    threshold: f64,
    limit: usize,
) -> Result<Vec<usize>, BoxesError> {
    check_len("scores of boxes", scores.len(), &[boxes.len()])?;
    check_len("groups of boxes", groups.len(), &[boxes.len()])?;
    if boxes.len() <= grouping.together {
        return nms(&shifted(boxes, groups), scores, threshold, limit);
    }
    let moved = grouping.always_shift.then(|| shifted(boxes, groups));
    let boxes = moved.as_deref().unwrap_or(boxes);
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(place);
    }
    let mut kept = Vec::new();
    for places in members.values() {
        let own: Vec<BBox> = places.iter().map(|place| boxes[*place]).collect();
        let own_scores: Vec<f32> = places.iter().map(|place| scores[*place]).collect();
        kept.extend(nms(&own, &own_scores, threshold, limit)?.into_iter().map(|i| places[i]));
    }
    kept.sort_unstable_by(|a, b| descending(scores[*a], scores[*b]).then(a.cmp(b)));
    kept.truncate(limit);
    Ok(kept)
}

/// The boxes, shifted apart by group.
fn shifted(boxes: &[BBox], groups: &[usize]) -> Vec<BBox> {
    // Unlike `f32::max`, this keeps what is not a number, as PyTorch's maximum does.
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let step = boxes.iter().flatten().copied().fold(f32::NEG_INFINITY, larger) + 1.0;
    let shift = |(b, group): (&BBox, &usize)| b.map(|edge| edge + *group as f32 * step);
    boxes.iter().zip(groups).map(shift).collect()
}
