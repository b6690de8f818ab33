//! The report of a reconstruction: the losses of every step, unit by unit.

use serde::{Deserialize, Serialize};

/// Losses of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// The reconstruction loss: mean squared error of the unit's output, summed over channels.
    pub reconstruction: f64,
    /// The weighted rounding regularizer; 0 during warm-up.
    pub rounding: f64,
    /// The regularizer's exponent; during warm-up its first value.
    pub b: f64,
}

/// The report of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    /// Name of the unit.
    pub name: String,
    /// Losses of every step.
    pub losses: Vec<LossPoint>,
    /// Wall-clock time in seconds.
    pub seconds: f64,
}

impl UnitReport {
    /// Mean losses of the first or last steps (up to 20); `None` when no step was taken.
    pub fn mean_losses(&self, last: bool) -> Option<LossPoint> {
        let n = self.losses.len().min(20);
        let range = if last { self.losses.len() - n..self.losses.len() } else { 0..n };
        let points = &self.losses[range];
        let mean = |f: fn(&LossPoint) -> f64| points.iter().map(f).sum::<f64>() / n as f64;
        (n > 0).then(|| LossPoint {
            reconstruction: mean(|p| p.reconstruction),
            rounding: mean(|p| p.rounding),
            b: mean(|p| p.b),
        })
    }
}
