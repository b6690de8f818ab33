//! The shortcut of a unit.

use super::images::Images;
use super::weight::Weight;
use qdrop_kernels::nhwc::stage::Read;

/// What is added to the chain's output at the unit's end.
pub enum Shortcut {
    None,
    /// The unit's input itself.
    Identity,
    /// A convolution of the unit's input, and the buffer of its output.
    Projection(Box<Weight>, Images),
}

impl Shortcut {
    /// The value that is added.
    pub fn value<'a>(&'a self, x: &'a Images) -> Option<Read<'a>> {
        match self {
            Self::None => None,
            Self::Identity => Some(x.read()),
            Self::Projection(_, z) => Some(z.read()),
        }
    }
}
