//! What makes pictures unfit for average precision.

use super::Picture;
use std::fmt;

/// A picture that average precision cannot be computed with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PictureError {
    /// Two pictures have the same id.
    Repeated {
        /// The id.
        id: u64,
    },
    /// A number of a box is infinite or not a number.
    NotFinite {
        /// Id of the picture.
        id: u64,
        /// What has the number, such as "the score of detection 3"; counted from 0.
        place: String,
    },
}

impl fmt::Display for PictureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated { id } => write!(f, "picture {id} is given twice; give each picture once"),
            Self::NotFinite { id, place } => write!(f, "picture {id}: {place} is not a finite number"),
        }
    }
}

impl std::error::Error for PictureError {}

/// Checks pictures that are sorted by id.
pub(super) fn check(pictures: &[&Picture]) -> Result<(), PictureError> {
    if let Some(pair) = pictures.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(PictureError::Repeated { id: pair[0].id });
    }
    let finite = |values: &[f64]| values.iter().all(|v| v.is_finite());
    for picture in pictures {
        let truth = picture.truth.iter().enumerate().flat_map(|(i, truth)| {
            [(finite(&truth.bbox), "box of true box", i), (truth.area.is_finite(), "area of true box", i)]
        });
        let found = picture.found.iter().enumerate().flat_map(|(i, found)| {
            [(finite(&found.bbox), "box of detection", i), (found.score.is_finite(), "score of detection", i)]
        });
        if let Some((_, what, i)) = truth.chain(found).find(|(good, ..)| !good) {
            return Err(PictureError::NotFinite { id: picture.id, place: format!("the {what} {i}") });
        }
    }
    Ok(())
}
