//! Channel counts as multiples of a number.

/// The nearest multiple of `divisor` that is not more than 10 % below `channels` (MobileNetV2's
/// rule, shared by RegNet and MNASNet).
pub fn divisible(channels: f64, divisor: usize) -> usize {
    let half = divisor as f64 / 2.0;
    let rounded = ((channels + half) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * channels {
        rounded + divisor
    } else {
        rounded
    }
}
