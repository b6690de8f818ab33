//! The one rounding function of the project.

/// Rounds to the nearest integer, ties to even, as `torch.round` does.
///
/// Every quantizer rounds through this function: `f32::round` (ties away from zero) moves values
/// on a tie to another grid point.
#[inline(always)]
pub fn round_half_even(x: f32) -> f32 {
    x.round_ties_even()
}
