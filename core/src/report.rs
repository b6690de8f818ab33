//! The report of a reconstruction: the losses of every step, unit by unit, and what quantization did at each site.

use crate::graph::SiteKind;
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

/// A reconstruction loss with hard roundings and without drop, as it would be if learning ended there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HardLoss {
    /// Number of finished steps.
    pub step: usize,
    /// The loss.
    pub loss: f32,
}

/// The smallest and the largest value that a grid can represent, over all its channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Clipping {
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
}

/// A distribution: shares of values in bins of equal width. Values beyond the bins count in the first and the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Where the first bin begins.
    pub low: f64,
    /// Where the last bin ends.
    pub high: f64,
    /// The share of all values in each bin.
    pub shares: Vec<f64>,
}

impl Shares {
    /// Counts a value in its bin.
    pub(crate) fn add(&mut self, value: f64) {
        let place = (value - self.low) / (self.high - self.low) * self.shares.len() as f64;
        // Casts saturate: below the first bin is 0, and so is what is no number.
        let place = (place as usize).min(self.shares.len().saturating_sub(1));
        self.shares.iter_mut().skip(place).take(1).for_each(|share| *share += 1.0);
    }

    /// Turns counts into shares of `count` values.
    pub(crate) fn divide(&mut self, count: f64) {
        self.shares.iter_mut().for_each(|share| *share /= count);
    }
}

/// What quantization did at a site. Values are those of a few calibration images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Name of the site.
    pub name: String,
    /// What is quantized.
    pub kind: SiteKind,
    /// Its bits.
    pub bits: u32,
    /// What the grid covered before learning.
    pub before: Clipping,
    /// What the grid covers.
    pub after: Clipping,
    /// The distribution in the float network: of a weight in steps of each channel's grid (`w / scale + zero_point`), of an
    /// activation in its own units.
    pub float: Shares,
    /// The distribution of a quantized weight, in the same bins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<Shares>,
    /// The points of a weight's grid in steps, if they are few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grid: Vec<f64>,
    /// Signal-to-quantization-noise ratio in dB where this site alone is quantized: of the weight, or of the value. `None` if there is
    /// no noise or no signal.
    pub noise_alone: Option<f64>,
    /// The same of the value in the quantized network, with all noise of earlier layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_accumulated: Option<f64>,
    /// The share of a weight's roundings that are not those to the nearest point of the grid before learning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<f64>,
    /// The share of values that lie beyond the grid by more than half a step.
    pub clipped: f64,
    /// Number of channels.
    pub channels: usize,
    /// Channels of a value that are the same everywhere; channels of a weight that are 0.
    pub dead_channels: usize,
    /// Other channels of which nothing is left: all values lie at one point of the grid, or the quantized weight is 0.
    pub lost_channels: usize,
}

/// The share of clipped values from which on an activation is suspicious.
const CLIPPED: f64 = 0.01;
/// The same of a weight, of whose few points observers of the squared error clip some percent on purpose.
const CLIPPED_WEIGHT: f64 = 0.1;

impl SiteReport {
    /// What may be wrong with the site, in words: dead channels, channels that are too small for the grid, and more than 1 % of
    /// clipped values, of a weight 10 %.
    pub fn suspicions(&self) -> Vec<String> {
        let of = |count: usize, what: &str| match count {
            0 => None,
            count => Some(format!("{count} of {} channels {what}", self.channels)),
        };
        let most = match self.kind {
            SiteKind::Weight => CLIPPED_WEIGHT,
            SiteKind::Activation => CLIPPED,
        };
        let clipped = (self.clipped > most).then(|| format!("{:.1} % of the values are clipped", 100.0 * self.clipped));
        let dead = of(self.dead_channels, "are the same everywhere");
        [dead, of(self.lost_channels, "are too small for the grid"), clipped].into_iter().flatten().collect()
    }
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
    /// Losses with hard roundings at some steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hard: Vec<HardLoss>,
    /// Resident memory of the process in bytes when the unit was finished. The pipeline fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What quantization did at the unit's sites. The pipeline fills it in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteReport>,
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
