//! Errors of the operations on boxes.

use std::fmt;

/// Inputs that do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoxesError {
    /// A slice has another number of elements than the sizes say.
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Elements that the sizes ask for.
        expected: usize,
        /// Elements that it has.
        actual: usize,
    },
    /// A size or a count that must be at least 1 is 0.
    Zero(&'static str),
    /// A box that cannot be pooled: not finite, or far larger than any feature map.
    Box {
        /// Its place in the list.
        index: usize,
    },
}

impl fmt::Display for BoxesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, expected, actual } => {
                write!(f, "{what}: {actual} elements where the sizes ask for {expected}")
            }
            Self::Zero(what) => write!(f, "{what} must be at least 1"),
            Self::Box { index } => write!(f, "box {index} is not finite or too large to be pooled"),
        }
    }
}

impl std::error::Error for BoxesError {}

/// Checks the number of elements of a slice, which is the product of `sizes`.
pub(super) fn check_len(what: &'static str, actual: usize, sizes: &[usize]) -> Result<(), BoxesError> {
    let expected = sizes.iter().fold(1, |product: usize, size| product.saturating_mul(*size));
    match actual == expected {
        true => Ok(()),
        false => Err(BoxesError::Length { what, expected, actual }),
    }
}

/// Checks that a size or a count is not 0.
pub(super) fn check_positive(what: &'static str, value: usize) -> Result<(), BoxesError> {
    match value {
        0 => Err(BoxesError::Zero(what)),
        _ => Ok(()),
    }
}
