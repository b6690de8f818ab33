//! The one rounding function of the project, and the clamp that follows it.

/// Rounds to the nearest integer, ties to even, as `torch.round` does.
///
/// Every quantizer rounds through this function: `f32::round` (ties away from zero) moves values
/// on a tie to another grid point.
#[inline(always)]
pub fn round_half_even(x: f32) -> f32 {
    x.round_ties_even()
}

/// Limits `x` to the bounds of a grid, `low` and `high`. NaN stays NaN.
#[inline(always)]
pub fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high {
        high
    } else {
        x
    }
}
