//! Which detections of one picture are right.

use super::{Found, Picture, Truth};

/// Number of IoU thresholds.
pub(super) const THRESHOLDS: usize = 10;
/// Number of ranges of area.
pub(super) const AREAS: usize = 4;

/// 0.5 to 0.95 in steps of 0.05, rounded as numpy's `linspace` rounds them: an IoU may equal a threshold.
const IOU: [f64; THRESHOLDS] = {
    let mut values = [0.95; THRESHOLDS];
    let mut i = 0;
    while i + 1 < THRESHOLDS {
        values[i] = 0.5 + i as f64 * ((0.95 - 0.5) / 9.0);
        i += 1;
    }
    values
};
/// All, small, medium and large objects: least and greatest area in pixels. Both belong to the range.
const RANGES: [[f64; 2]; AREAS] = [[0.0, 1e10], [0.0, 1024.0], [1024.0, 9216.0], [9216.0, 1e10]];
/// Detections of a label that count in one picture.
const MOST: usize = 100;
/// One bit for each threshold.
const EVERY: u16 = (1 << THRESHOLDS) - 1;

/// How a detection fared. Bit t of a mask belongs to IoU threshold t; a bit that is set in neither mask means that the
/// detection does not count there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Score of the detection.
    pub score: f64,
    /// Where it is right, for each range of area.
    pub hit: [u16; AREAS],
    /// Where it is wrong, for each range of area.
    pub miss: [u16; AREAS],
}

/// True if the object is one that a detector must find, in each range of area. Any other is passed over: finding it
/// counts neither as right nor as wrong.
pub(super) fn counts(truth: &Truth) -> [bool; AREAS] {
    RANGES.map(|range| !truth.crowd && within(truth.area, range))
}

fn within(area: f64, [least, greatest]: [f64; 2]) -> bool {
    (least..=greatest).contains(&area)
}

/// Matches the detections of one picture whose label is in `names`, which is sorted. Gives the place of each one's label
/// in `names`, and its outcome; those of one label stand together, best score first.
pub(super) fn outcomes(picture: &Picture, names: &[usize]) -> Vec<(usize, Outcome)> {
    let mut found: Vec<(usize, &Found)> =
        picture.found.iter().filter_map(|f| names.binary_search(&f.label).ok().map(|place| (place, f))).collect();
    // Both sorts are stable. No score is NaN, so the comparison always has an answer.
    found.sort_by(|(a, x), (b, y)| a.cmp(b).then(descending(x.score, y.score)));
    let mut outcomes = Vec::with_capacity(found.len());
    for same in found.chunk_by(|(a, _), (b, _)| a == b) {
        let mut truths: Vec<Candidate> =
            picture.truth.iter().filter(|truth| truth.label == same[0].1.label).map(Candidate::new).collect();
        outcomes.extend(same.iter().take(MOST).map(|(place, found)| (*place, judge(found, &mut truths))));
    }
    outcomes
}

/// Order of scores, the greater one first.
pub(super) fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal)
}

/// A true box of the label at hand.
struct Candidate<'a> {
    truth: &'a Truth,
    counts: [bool; AREAS],
    /// Thresholds at which a detection has taken it, for each range of area.
    taken: [u16; AREAS],
    /// IoU with the detection at hand.
    iou: f64,
}

impl<'a> Candidate<'a> {
    fn new(truth: &'a Truth) -> Self {
        Self { truth, counts: counts(truth), taken: [0; AREAS], iou: 0.0 }
    }

    fn free(&self, area: usize, bit: u16) -> bool {
        self.truth.crowd || self.taken[area] & bit == 0
    }
}

/// Judges a detection after all better ones, and notes which true boxes it takes.
fn judge(found: &Found, truths: &mut [Candidate<'_>]) -> Outcome {
    let [_, _, width, height] = found.bbox;
    let mut outcome = Outcome {
        score: found.score,
        hit: [0; AREAS],
        // Without a match it is wrong, except where it has not the size that is asked for.
        miss: RANGES.map(|range| if within(width * height, range) { EVERY } else { 0 }),
    };
    let mut greatest = 0.0;
    for truth in truths.iter_mut() {
        truth.iou = overlap(found.bbox, truth.truth);
        greatest = truth.iou.max(greatest);
    }
    // Of the thresholds, which ascend, only these can be met.
    let met = IOU.partition_point(|threshold| *threshold <= greatest);
    for area in 0..AREAS {
        for (t, threshold) in IOU[..met].iter().enumerate() {
            let bit = 1 << t;
            if let Some(best) = choose(truths, area, bit, *threshold) {
                best.taken[area] |= bit;
                outcome.miss[area] &= !bit;
                if best.counts[area] {
                    outcome.hit[area] |= bit;
                }
            }
        }
    }
    outcome
}

/// The true box that the detection takes: the free one with the greatest IoU, the last among equals. One that counts goes
/// before one that is passed over, however much less it overlaps.
fn choose<'a, 'b>(
    truths: &'a mut [Candidate<'b>],
    area: usize,
    bit: u16,
    threshold: f64,
) -> Option<&'a mut Candidate<'b>> {
    let mut best: Option<(usize, bool, f64)> = None;
    for (i, truth) in truths.iter().enumerate() {
        if truth.iou >= threshold && truth.free(area, bit) {
            let counts = truth.counts[area];
            if best.is_none_or(|(_, best_counts, iou)| (counts, truth.iou) >= (best_counts, iou)) {
                best = Some((i, counts, truth.iou));
            }
        }
    }
    best.and_then(|(i, ..)| truths.get_mut(i))
}

/// Intersection over union of a detection with a true box; with a crowd, the part of the detection that lies inside.
fn overlap([x, y, width, height]: [f64; 4], truth: &Truth) -> f64 {
    let [left, top, truth_width, truth_height] = truth.bbox;
    let across = (x + width).min(left + truth_width) - x.max(left);
    let down = (y + height).min(top + truth_height) - y.max(top);
    if across <= 0.0 || down <= 0.0 {
        return 0.0;
    }
    let (both, area) = (across * down, width * height);
    both / if truth.crowd { area } else { area + truth_width * truth_height - both }
}
