//! Average precision of boxes as the COCO benchmark defines it, with its standard error.
//!
//! The values are those of pycocotools 2.0.11 (`COCOeval` with `iouType` "bbox" and its default parameters). A detection
//! is right if it overlaps a true box of its label that no better detection has taken. Overlap is intersection over
//! union (IoU), and there are ten thresholds for it, from 0.5 to 0.95. For each label and threshold, the detections of
//! all pictures in order of their scores give a curve of precision over recall. Average precision is the mean height of
//! these curves.

mod curve;
mod error;
mod jackknife;
mod matching;
#[cfg(test)]
mod tests;

pub use error::PictureError;

use curve::Label;
use rayon::prelude::*;

/// The usual number of groups of pictures for [`average_precision`].
pub const GROUPS: usize = 50;

/// A true box of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Number of the category.
    pub label: usize,
    /// Left, top, width and height in pixels.
    pub bbox: [f64; 4],
    /// Area of the object in pixels, which COCO measures on its mask. It decides whether the object is small, medium or
    /// large.
    pub area: f64,
    /// The box surrounds a crowd. Any number of detections may lie in it; they count neither as right nor as wrong.
    pub crowd: bool,
}

/// A box that a detector found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Number of the category.
    pub label: usize,
    /// Left, top, width and height in pixels.
    pub bbox: [f64; 4],
    /// How sure the detector is. Only the order matters.
    pub score: f64,
}

/// One picture: what is on it, and what a detector found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// Number of the picture in the annotation file.
    pub id: u64,
    /// True boxes in the order of the annotation file. Of two that a detection overlaps equally, it takes the later one.
    pub truth: Vec<Truth>,
    /// Detections in the order of the detector. Of two with the same score, the earlier one is judged first.
    pub found: Vec<Found>,
}

/// The six averages of the benchmark. Each lies between 0 and 1, and is `None` where there is no true box to find.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AveragePrecision {
    /// Mean over the ten IoU thresholds: the benchmark's main figure, "AP".
    pub all: Option<f64>,
    /// With an IoU threshold of 0.5, "AP50".
    pub at_50: Option<f64>,
    /// With an IoU threshold of 0.75, "AP75".
    pub at_75: Option<f64>,
    /// For objects of at most 32 x 32 pixels.
    pub small: Option<f64>,
    /// For objects of 32 x 32 to 96 x 96 pixels.
    pub medium: Option<f64>,
    /// For objects of at least 96 x 96 pixels.
    pub large: Option<f64>,
}

impl From<[Option<f64>; 6]> for AveragePrecision {
    /// In the order of the fields, which is that of `COCOeval.stats`.
    fn from([all, at_50, at_75, small, medium, large]: [Option<f64>; 6]) -> Self {
        Self { all, at_50, at_75, small, medium, large }
    }
}

impl From<AveragePrecision> for [Option<f64>; 6] {
    /// In the order of the fields, which is that of `COCOeval.stats`.
    fn from(value: AveragePrecision) -> Self {
        [value.all, value.at_50, value.at_75, value.small, value.medium, value.large]
    }
}

/// Average precision of a detector on some pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// The averages.
    pub value: AveragePrecision,
    /// Standard error of each average for the choice of the pictures. It is `None` if there is none to give: fewer than
    /// two groups, or the pictures outside of a group have no true box to find.
    pub standard_error: AveragePrecision,
}

/// Average precision of the detections on `pictures`, which may come in any order.
///
/// Labels without a true box do not count; a crowd alone is not a true box. Of each label and picture, the 100 detections
/// with the highest scores count.
///
/// The standard error is that of the delete-a-group jackknife (Wolter, Introduction to Variance Estimation, 2nd edition
/// 2007, chapter 4). The pictures in order of their ids are dealt out to `groups` groups, or as many as there are
/// pictures. The averages are computed again without each group. If theta_g is an average without group g, the squared
/// error is (G - 1) / G times the sum over g of (theta_g - mean of all theta_g)^2. Usually `groups` is [`GROUPS`]; 0 saves
/// the time for the errors.
///
/// The result does not depend on the number of threads. Two pictures with the same id are an error, and so are
/// coordinates, areas and scores that are not finite.
pub fn average_precision(pictures: &[Picture], groups: usize) -> Result<Estimate, PictureError> {
    let mut pictures: Vec<&Picture> = pictures.iter().collect();
    pictures.sort_by_key(|picture| picture.id);
    error::check(&pictures)?;
    // A single group is left out as a whole. Then nothing remains, and no error can be given.
    let groups = groups.min(pictures.len()).max(1);
    let names = curve::names(&pictures);
    let matched: Vec<_> = pictures.par_iter().map(|picture| matching::outcomes(picture, &names)).collect();
    let labels = Label::join(&pictures, matched, &names, groups);
    let columns = curve::averages(&labels, groups);
    Ok(Estimate { value: columns[0].into(), standard_error: jackknife::standard_errors(&columns[1..]).into() })
}
