//! What is added to a layer's output: an earlier value of the chain, or a convolution of it.

use super::images::Images;
use super::weight::Weight;
use qdrop_kernels::nhwc::stage::Read;

/// An addition before a layer's stage.
pub struct Addition {
    /// The layer whose value is read; `None` for the unit's input.
    pub from: Option<usize>,
    /// The convolution of that value, if there is one.
    pub projection: Option<Projection>,
}

/// A convolution with the buffer of its output.
pub struct Projection {
    pub weight: Weight,
    pub z: Images,
    /// The gradient of what it reads, if that is not the unit's input.
    pub gx: Option<Images>,
}

impl Addition {
    /// The value that is added, where `source` is the value that is read.
    pub fn value<'a>(&'a self, source: Read<'a>) -> Read<'a> {
        self.projection.as_ref().map_or(source, |projection| projection.z.read())
    }
}
