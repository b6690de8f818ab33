//! Joins the outcomes of all pictures to curves of precision over recall.
//!
//! Everything is computed for several columns at once. Column 0 has all pictures; column g lacks those of group g, of
//! which the first is 1. The columns share the order of the detections, so one pass over them serves all.

use super::matching::{counts, descending, Outcome, AREAS, THRESHOLDS};
use super::Picture;
use rayon::prelude::*;
use std::ops::Range;

/// Number of values of recall at which precision is read: 0, 0.01, ..., 1.
const LEVELS: usize = 101;

/// Range of area and IoU thresholds of each figure, in the order of the fields of `AveragePrecision`.
const FIGURES: [(usize, Range<usize>); 6] =
    [(0, 0..THRESHOLDS), (0, 0..1), (0, 5..6), (1, 0..THRESHOLDS), (2, 0..THRESHOLDS), (3, 0..THRESHOLDS)];

/// The labels that count: those with a true box that is not a crowd, ascending.
pub(super) fn names(pictures: &[&Picture]) -> Vec<usize> {
    let truths = pictures.iter().flat_map(|picture| &picture.truth);
    let mut names: Vec<usize> = truths.filter(|truth| !truth.crowd).map(|truth| truth.label).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A detection and the group of its picture.
struct Row {
    group: usize,
    outcome: Outcome,
}

/// All that is known of one label.
pub(super) struct Label {
    /// Detections, best score first.
    rows: Vec<Row>,
    /// Number of true boxes to find in each column, for each range of area.
    truths: [Vec<f64>; AREAS],
}

impl Label {
    /// Joins the outcomes of the pictures for each label of `names`.
    pub fn join(
        pictures: &[&Picture],
        outcomes: Vec<Vec<(usize, Outcome)>>,
        names: &[usize],
        groups: usize,
    ) -> Vec<Self> {
        let empty = || Self { rows: Vec::new(), truths: std::array::from_fn(|_| vec![0.0; groups + 1]) };
        let mut labels: Vec<Self> = names.iter().map(|_| empty()).collect();
        for (i, (picture, outcomes)) in pictures.iter().zip(outcomes).enumerate() {
            let group = 1 + i % groups;
            for (place, outcome) in outcomes {
                labels[place].rows.push(Row { group, outcome });
            }
            for truth in &picture.truth {
                let Ok(place) = names.binary_search(&truth.label) else { continue };
                for (count, own) in counts(truth).iter().zip(&mut labels[place].truths) {
                    own[group] += f64::from(u8::from(*count));
                }
            }
        }
        labels.par_iter_mut().for_each(|label| {
            label.rows.sort_by(|a, b| descending(a.outcome.score, b.outcome.score));
            for truths in &mut label.truths {
                let total: f64 = truths.iter().sum();
                truths.iter_mut().for_each(|own| *own = total - *own);
            }
        });
        labels
    }

    /// In each column, the mean over all levels of recall of the highest precision at this or more recall. A column
    /// without a true box has no meaningful value.
    fn precision(&self, area: usize, threshold: usize) -> Vec<f64> {
        let bit = 1 << threshold;
        let (hit, miss) = (|row: &Row| row.outcome.hit[area] & bit != 0, |row: &Row| row.outcome.miss[area] & bit != 0);
        let truths = &self.truths[area];
        let mut hits = Counts::new(&self.rows, hit, truths.len());
        let mut misses = Counts::new(&self.rows, miss, truths.len());
        let mut columns: Vec<Column> = (0..truths.len()).map(|c| Column::new(hits.left(c) / truths[c])).collect();
        let mut best = vec![0.0_f64; truths.len()];
        // From the worst detection to the best one, so that the highest precision at more recall is known. Precision
        // rises at hits alone, so nothing is to be done at a miss but to count it.
        for row in self.rows.iter().rev() {
            if miss(row) {
                misses.remove(row.group);
            } else if hit(row) {
                for (c, best) in best.iter_mut().enumerate() {
                    let (right, wrong) = (hits.left(c), misses.left(c));
                    // The small addend is pycocotools', against division by 0.
                    *best = best.max(right / (right + wrong + f64::EPSILON));
                }
                hits.remove(row.group);
                for (c, column) in columns.iter_mut().enumerate() {
                    column.back_to(hits.left(c) / truths[c], best[c]);
                }
            }
        }
        columns.iter().zip(best).map(|(column, best)| column.mean(best)).collect()
    }
}

/// Number of rows of one kind that a backward pass has still before it.
struct Counts {
    total: f64,
    /// Those of each group, which its column does not have. None is of group 0.
    own: Vec<f64>,
}

impl Counts {
    fn new(rows: &[Row], kind: impl Fn(&Row) -> bool, columns: usize) -> Self {
        let mut own = vec![0.0; columns];
        rows.iter().filter(|row| kind(row)).for_each(|row| own[row.group] += 1.0);
        Self { total: own.iter().sum(), own }
    }

    fn left(&self, column: usize) -> f64 {
        self.total - self.own[column]
    }

    fn remove(&mut self, group: usize) {
        self.total -= 1.0;
        self.own[group] -= 1.0;
    }
}

/// Reads a curve from its right end.
struct Column {
    /// Number of levels of recall that are still to be read. The next one is the last of them.
    levels: usize,
    sum: f64,
}

impl Column {
    /// Where the greatest recall is `recall`. Levels above it are never reached and count as 0.
    fn new(recall: f64) -> Self {
        let mut column = Self { levels: LEVELS, sum: 0.0 };
        column.back_to(recall, 0.0);
        column
    }

    /// Reads all levels above `recall`, at which the precision is `best`.
    fn back_to(&mut self, recall: f64, best: f64) {
        // Level 0 is above no recall, so that one level always remains.
        while (self.levels - 1) as f64 * 0.01 > recall {
            self.levels -= 1;
            self.sum += best;
        }
    }

    /// The mean, if precision is `best` at the levels that remain.
    fn mean(&self, best: f64) -> f64 {
        (self.sum + self.levels as f64 * best) / LEVELS as f64
    }
}

/// The six figures of each column. Always has column 0.
pub(super) fn averages(labels: &[Label], groups: usize) -> Vec<[Option<f64>; FIGURES.len()]> {
    let curves: Vec<Vec<f64>> = (0..labels.len() * AREAS * THRESHOLDS)
        .into_par_iter()
        .map(|i| labels[i / (AREAS * THRESHOLDS)].precision(i / THRESHOLDS % AREAS, i % THRESHOLDS))
        .collect();
    let average = |column: usize, (area, thresholds): (usize, Range<usize>)| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (label, curves) in labels.iter().zip(curves.chunks(AREAS * THRESHOLDS)) {
            if label.truths[area][column] > 0.0 {
                let curves = &curves[area * THRESHOLDS..][thresholds.clone()];
                sum += curves.iter().map(|curve| curve[column]).sum::<f64>();
                count += curves.len() as f64;
            }
        }
        (count > 0.0).then(|| sum / count)
    };
    (0..=groups).map(|column| FIGURES.map(|figure| average(column, figure))).collect()
}
