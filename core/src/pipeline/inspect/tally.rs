//! Signal and noise.

/// Sums of squares of values, and of what changed of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    signal: f64,
    noise: f64,
}

impl Tally {
    /// Values and the changed ones, in the same order.
    pub fn of(values: &[f32], changed: &[f32]) -> Self {
        let mut tally = Self::default();
        for (value, changed) in values.iter().zip(changed) {
            tally.signal += f64::from(*value).powi(2);
            tally.noise += (f64::from(*value) - f64::from(*changed)).powi(2);
        }
        tally
    }

    /// Signal-to-quantization-noise ratio in dB, `10 log10(sum(x^2) / sum((x - q)^2))`; `None` without noise or without signal.
    pub fn decibels(&self) -> Option<f64> {
        let ratio = self.signal / self.noise;
        (ratio.is_finite() && ratio > 0.0).then(|| 10.0 * ratio.log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_in_decibels() {
        let tally = Tally::of(&[3.0, -4.0], &[3.0, -3.5]);
        assert_eq!(tally.decibels(), Some(20.0));
        assert_eq!(Tally::of(&[1.0], &[1.0]).decibels(), None);
        assert_eq!(Tally::of(&[0.0], &[1.0]).decibels(), None);
    }
}
