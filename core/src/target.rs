//! Targets: the ground truth of an image, which a task compares the network's outputs with.

use crate::error::{Error, Result};
use std::fmt::{self, Display};

/// The ground truth of one image.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// Index of the image's class.
    Class(usize),
    /// Numbers, such as the targets of a regression.
    Values(Vec<f32>),
    /// The objects in the image.
    Objects(Objects),
    /// None is known. This is enough for calibration, which compares nothing.
    Unknown,
}

impl Target {
    /// The index of the class.
    ///
    /// # Errors
    /// The target is not a class.
    pub fn class(&self) -> Result<usize> {
        match self {
            Self::Class(class) => Ok(*class),
            other => Err(Error::message(format!("the target of an image is {other}, a class is expected"))),
        }
    }

    /// The objects.
    ///
    /// # Errors
    /// The target is something else.
    pub fn objects(&self) -> Result<&Objects> {
        match self {
            Self::Objects(objects) => Ok(objects),
            other => Err(Error::message(format!("the target of an image is {other}, objects are expected"))),
        }
    }

    /// The values.
    ///
    /// # Errors
    /// The target is not a list of values.
    pub fn values(&self) -> Result<&[f32]> {
        match self {
            Self::Values(values) => Ok(values),
            other => Err(Error::message(format!("the target of an image is {other}, numbers are expected"))),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(f, "class {class}"),
            Self::Values(values) => write!(f, "{} numbers", values.len()),
            Self::Objects(objects) => write!(f, "{} objects", objects.objects.len()),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The objects of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The number of the picture in its dataset.
    pub picture: u64,
    /// How labels are numbered.
    pub labels: Labels,
    /// The objects, in the order of the dataset.
    pub objects: Vec<Object>,
}

/// An object in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Number of its class.
    pub label: usize,
    /// Left, top, width and height of its box, in pixels of the original picture.
    pub bbox: [f64; 4],
    /// Its area in pixels: that of its shape if the dataset knows it, else of its box.
    pub area: f64,
    /// Whether it is a group of objects that are not told apart.
    pub crowd: bool,
}

/// How a detector numbers the classes of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// 0, 1 and so on, in the order of the dataset's list of categories.
    InOrder {
        /// Number of classes.
        classes: usize,
    },
    /// By the numbers that the dataset gives to its categories, which may have gaps.
    ByCategory {
        /// All numbers are below this one.
        below: usize,
    },
}

impl Labels {
    /// All labels are below this number.
    pub fn count(&self) -> usize {
        match self {
            Self::InOrder { classes } => *classes,
            Self::ByCategory { below } => *below,
        }
    }
}

impl Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InOrder { classes } => write!(f, "0 to {} in the order of the dataset", classes.saturating_sub(1)),
            Self::ByCategory { below } => write!(f, "by the dataset's numbers of categories, below {below}"),
        }
    }
}

/// The kind of targets that a task compares with, or a dataset gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetSpec {
    /// One of a number of classes.
    Class {
        /// Number of classes.
        classes: usize,
    },
    /// A list of numbers.
    Values {
        /// Length of each target.
        count: usize,
    },
    /// Objects with their boxes.
    Objects {
        /// How their classes are numbered.
        labels: Labels,
    },
    /// Nothing: no ground truth is needed, because outputs are compared with those of the float network alone. Each target is
    /// [`Target::Unknown`].
    Nothing,
}

impl TargetSpec {
    /// Whether `target` is of this kind.
    pub fn contains(&self, target: &Target) -> bool {
        match (self, target) {
            (Self::Class { classes }, Target::Class(class)) => class < classes,
            (Self::Values { count }, Target::Values(values)) => values.len() == *count,
            (Self::Objects { labels }, Target::Objects(all)) => {
                all.labels == *labels && all.objects.iter().all(|o| o.label < labels.count())
            }
            (Self::Nothing, Target::Unknown) => true,
            _ => false,
        }
    }
}

impl Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class { classes } => write!(f, "one of {classes} classes"),
            Self::Values { count } => write!(f, "{count} numbers"),
            Self::Objects { labels } => write!(f, "boxes of objects, labelled {labels}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_held_against_what_was_promised() {
        let (ten, two) = (TargetSpec::Class { classes: 10 }, TargetSpec::Values { count: 2 });
        assert!(ten.contains(&Target::Class(9)) && !ten.contains(&Target::Class(10)));
        assert!(two.contains(&Target::Values(vec![0.5, 1.0])) && !two.contains(&Target::Values(vec![0.5])));
        assert!(!ten.contains(&Target::Values(vec![1.0])) && !two.contains(&Target::Class(1)));
        let error = Target::Values(vec![0.5; 3]).class().unwrap_err().to_string();
        assert_eq!(error, "the target of an image is 3 numbers, a class is expected");
        assert!(!ten.contains(&Target::Unknown) && !two.contains(&Target::Unknown));
        assert!(TargetSpec::Nothing.contains(&Target::Unknown) && !TargetSpec::Nothing.contains(&Target::Class(0)));
        let error = Target::Unknown.class().unwrap_err().to_string();
        assert_eq!(error, "the target of an image is unknown, a class is expected");
        let error = Target::Class(3).values().unwrap_err().to_string();
        assert_eq!(error, "the target of an image is class 3, numbers are expected");
    }
}
