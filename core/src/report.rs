//! What a reconstruction reports: the losses of every step, unit by unit.

use serde::{Deserialize, Serialize};

/// Losses of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Mean squared error of the unit's output, summed over channels.
    pub reconstruction: f64,
    /// Weighted rounding regularizer; 0 during warm-up.
    pub rounding: f64,
    /// Sharpness of the regularizer; its first value during warm-up.
    pub b: f64,
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    /// The unit.
    pub name: String,
    /// Losses of every step.
    pub losses: Vec<LossPoint>,
    /// Wall-clock time.
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
