//! Packed files: a quantized network in one file that is as small as its bits allow. `docs/packed-format.md` describes them.

mod bits;
mod container;
mod description;
mod read;
mod write;

pub(crate) use container::FORMAT;
pub use read::{Packed, PackedParameter, PackedSite, PackedWeight};
pub use write::{write, About};

/// The tensor with scales, zero points that are no integers, and parameters.
const FLOATS: &str = "floats";
/// The tensor with zero points.
const ZERO_POINTS: &str = "zero_points";
/// The tensor with the description.
const DESCRIPTION: &str = "description";

/// The tensor with the integers of a weight. The names of the other tensors have no dot.
fn tensor_name(site: &str) -> String {
    format!("{site}.weight")
}
