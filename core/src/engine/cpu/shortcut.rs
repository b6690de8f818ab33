//! What reaches a unit's end beside its layers.

use super::images::Images;
use super::weight::Weight;
use qdrop_kernels::nhwc::stage::Read;

/// What is added to the chain's value at the unit's end.
pub enum Shortcut {
    None,
    /// The unit's input.
    Identity,
    /// A layer of the unit's input, with its value.
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
