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

/// The state that a reconstructor kept as the best one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptState {
    /// Number of steps after which it was reached.
    pub step: usize,
    /// Its reconstruction loss with hard roundings and without drop.
    pub loss: f32,
}

/// The report of a unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    /// Name of the unit.
    pub name: String,
    /// Losses of every step.
    pub losses: Vec<LossPoint>,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// The best state, if the reconstructor keeps it rather than the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptState>,
    /// Share of the learned roundings that were not settled at the end. The pipeline fills it in: see
    /// [`UnitTask::soft_share`](crate::reconstructor::UnitTask::soft_share).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_share: Option<f64>,
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
