//! Values that do not depend on the image.

use std::rc::Rc;

/// An element of a tensor of integers. Most of these tensors are shapes, in which the number of images may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A number.
    Known(i64),
    /// The number of images.
    Batch,
}

/// A constant tensor.
#[derive(Debug, Clone)]
pub enum Constant {
    /// Floating-point numbers.
    Floats {
        /// The shape.
        dims: Vec<usize>,
        /// The values in row-major order.
        values: Rc<Vec<f32>>,
    },
    /// Integers or booleans.
    Sizes {
        /// The shape.
        dims: Vec<usize>,
        /// The values in row-major order.
        values: Vec<Size>,
    },
}

impl Constant {
    /// A vector of sizes.
    pub fn vector(values: Vec<Size>) -> Self {
        Self::Sizes { dims: vec![values.len()], values }
    }

    /// The shape.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Floats { dims, .. } | Self::Sizes { dims, .. } => dims,
        }
    }

    /// The values of a tensor of integers.
    pub fn sizes(&self) -> Result<&[Size], String> {
        match self {
            Self::Sizes { values, .. } => Ok(values),
            Self::Floats { .. } => Err("needs integers, not floating-point numbers".into()),
        }
    }

    /// The values of a tensor of integers, among which is not the number of images.
    pub fn integers(&self) -> Result<Vec<i64>, String> {
        let known = |size: &Size| match size {
            Size::Known(value) => Ok(*value),
            Size::Batch => Err("the number of images stands where a fixed number is needed".to_string()),
        };
        self.sizes()?.iter().map(known).collect()
    }

    /// The values as floating-point numbers.
    pub fn floats(&self) -> Result<Rc<Vec<f32>>, String> {
        match self {
            Self::Floats { values, .. } => Ok(values.clone()),
            Self::Sizes { .. } => Ok(Rc::new(self.integers()?.into_iter().map(|v| v as f32).collect())),
        }
    }

    /// The value of a tensor with one element.
    pub fn scalar(&self) -> Result<f32, String> {
        match self.floats()?[..] {
            [value] => Ok(value),
            ref values => Err(format!("needs one number, not {}", values.len())),
        }
    }
}
