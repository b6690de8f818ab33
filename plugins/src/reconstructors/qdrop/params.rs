//! The parameters of the optimization, and what follows from them for each step.

use super::batches::Batches;
use super::correction::DistributionCorrection;
use super::gptq::Start;
use super::prediction::PredictionDifference;
use qdrop_core::prelude::*;
use qdrop_core::registry::nearest;
use std::collections::BTreeMap;

/// Parameters of the optimization; the defaults are those of the published recipes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QdropParams {
    /// Steps for each unit. The learning rates are meant for this number.
    pub iters: usize,
    /// Runs only this number of steps and scales the learning rates up, so that steps times learning rate stays the
    /// same: an alpha changes by at most about its learning rate in each step. See [`Reconstructor::shorten`].
    #[serde(skip)]
    pub run_iters: Option<usize>,
    /// Gives units that cost much fewer steps, and the others more: a unit takes `iters * cost^-balance` steps, at least a
    /// quarter and at most four times `iters`, where the mean cost is 1. Its learning rates change so that steps times
    /// rate stays the same. 0: equally many.
    pub balance: f64,
    /// From which weights learning begins.
    pub start: Start,
    /// Samples in each batch; where images form groups (`calibration.group`), a batch is one of them.
    pub batch_size: usize,
    /// Batches in each step, whose gradients are averaged.
    pub accumulate: usize,
    /// How the samples of a step are chosen.
    pub batches: Batches,
    /// How quantized and float values are combined in a step.
    pub drop: Drop,
    /// Probability of keeping an element's quantized value; 1.0 means no drop (BRECQ). `drop: mix` does not use it.
    pub drop_prob: f32,
    /// Learning rate of rounding variables.
    pub lr: f64,
    /// How the learning rate of rounding variables changes over the steps.
    pub lr_decay: Decay,
    /// Initial learning rate of scales, and of zero points unless `rates` has one for them; it decays to 0 along a
    /// cosine.
    pub scale_lr: f64,
    /// Initial learning rates of further parameter groups, which decay in the same way: `weight_scale`, `zero_point`,
    /// groups of a plugin's quantizer, and `bias`, which makes the biases of layers learned. Those of parameters with a
    /// [size](Parameter::size) are relative to it, as those of biases and of `adaround`'s scales are.
    pub rates: BTreeMap<String, f64>,
    /// Weight of the rounding regularizer (lambda).
    pub weight: f64,
    /// Share of the steps before the regularizer begins.
    pub warm_up: f64,
    /// Exponent of the regularizer at the end of warm-up and at the last step.
    pub b_range: [f64; 2],
    /// How often, evenly over the steps and at most after every second one, the loss is measured with hard roundings and
    /// without drop, on the first four batches of samples. The result is the state with the smallest loss of those after
    /// warm-up. With 0 it is the state after the last step. AutoRound (arXiv 2309.05516) keeps the best state too.
    pub keep_best: usize,
    /// Whether the loss compares a unit's outputs and their targets as the calibrated grid of the output represents them, both
    /// clipped to its range: a few values beyond it then do not decide what is learned. A range that was chosen for other
    /// reasons than the error of the values, as `calibration.refine` chooses it, keeps its width.
    pub clip_targets: bool,
    /// On how many samples the size of what a unit's last layers compute, and the mean of its outputs, is made that of the float
    /// network when learning ends, see [`UnitTask::match_statistics`]. 0: they are left as they are.
    pub match_statistics: usize,
    /// Adds the difference of the network's predictions to the loss (PD-Quant, arXiv 2212.07048). The reported reconstruction
    /// loss contains it.
    pub prediction_difference: Option<PredictionDifference>,
    /// Corrects the float inputs of each unit before it learns, so that the values in it have the statistics that batch
    /// normalization knows of the training images (PD-Quant, section 3.3).
    pub distribution_correction: Option<DistributionCorrection>,
    /// Whether the prediction difference is the whole loss.
    #[serde(skip)]
    pub only_prediction: bool,
    /// The probability of keeping an element's quantized value at the last step, to which `drop_prob` changes evenly.
    #[serde(skip)]
    pub last_drop_prob: Option<f32>,
    /// A last stage in which the whole network learns as one unit.
    pub network: Option<NetworkParams>,
}

/// How quantized and float values of activations, and of the unit's inputs, are combined in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// Each element is one of both, by `drop_prob` (QDrop).
    #[default]
    Coin,
    /// Each element is `u * quantized + (1 - u) * float` with an own u, uniform in [0, 1) (AE-QDrop, Electronics 2024, 13,
    /// 644). The fused engine of a GPU does not compute it.
    Mix,
}

/// How a learning rate changes over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays the same.
    #[default]
    None,
    /// It decays to 0 along a cosine, as in Genie-M (arXiv 2212.04780).
    Cosine,
}

impl Default for QdropParams {
    fn default() -> Self {
        Self {
            iters: 20_000,
            run_iters: None,
            balance: 0.0,
            start: Start::default(),
            batch_size: 32,
            accumulate: 1,
            batches: Batches::default(),
            drop: Drop::default(),
            drop_prob: 0.5,
            lr: 1e-3,
            lr_decay: Decay::default(),
            scale_lr: 4e-5,
            rates: BTreeMap::new(),
            weight: 0.01,
            warm_up: 0.2,
            b_range: [20.0, 2.0],
            keep_best: 0,
            clip_targets: false,
            match_statistics: 0,
            prediction_difference: None,
            distribution_correction: None,
            only_prediction: false,
            last_drop_prob: None,
            network: None,
        }
    }
}

impl QdropParams {
    /// The key of an impossible value and what is wrong with it, if there is one.
    pub(super) fn checked(&self) -> Result<(), (&'static str, String)> {
        let checks = [
            ("iters", self.iters >= 1, "must be at least 1"),
            ("balance", (0.0..=1.0).contains(&self.balance), "lies between 0 and 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("accumulate", self.accumulate >= 1, "must be at least 1"),
            (
                "prediction_difference",
                self.prediction_difference.is_none() || self.accumulate == 1,
                "takes one batch in a step; leave out `accumulate`",
            ),
            ("drop_prob", (0.0..=1.0).contains(&self.drop_prob), "is a probability between 0 and 1"),
            ("lr", self.lr >= 0.0 && self.lr.is_finite(), "must not be negative"),
            ("scale_lr", self.scale_lr >= 0.0 && self.scale_lr.is_finite(), "must not be negative"),
            ("rates", self.rates.values().all(|r| *r >= 0.0 && r.is_finite()), "must not be negative"),
            ("weight", self.weight >= 0.0 && self.weight.is_finite(), "must not be negative"),
            ("warm_up", (0.0..1.0).contains(&self.warm_up), "is a share between 0 and 1"),
            ("b_range", self.b_range.iter().all(|b| *b > 0.0 && b.is_finite()), "must be positive"),
        ];
        if let Some((key, _, message)) = checks.into_iter().find(|(_, ok, _)| !ok) {
            return Err((key, message.into()));
        }
        self.rates.keys().try_for_each(|group| check_group(group).map_err(|why| ("rates", why)))
    }

    pub(super) fn validate(self, params: &Params) -> Result<Self> {
        self.checked().map_err(|(key, message)| params.error(key, message))?;
        if let Some(PredictionDifference { weight, temperature, samples }) = self.prediction_difference {
            let batch = 1..=self.batch_size;
            let checks = [
                ("weight", weight >= 0.0 && weight.is_finite(), "must not be negative"),
                ("temperature", temperature > 0.0 && temperature.is_finite(), "must be positive"),
                ("samples", samples.is_none_or(|s| batch.contains(&s)), "must be between 1 and the batch size"),
            ];
            if let Some((key, _, message)) = checks.into_iter().find(|(_, ok, _)| !ok) {
                return Err(params.error(&format!("prediction_difference.{key}"), message));
            }
        }
        if let Some(network) = &self.network {
            network.validate(params)?;
        }
        if let Some(correction) = &self.distribution_correction {
            correction.validate(params)?;
        }
        Ok(self)
    }

    /// Number of steps that are run.
    pub(super) fn steps(&self) -> usize {
        self.run_iters.unwrap_or(self.iters)
    }

    /// Number of steps of a unit of this cost.
    pub(super) fn steps_at(&self, cost: f64) -> usize {
        let factor = if self.balance > 0.0 { cost.powf(-self.balance).clamp(0.25, 4.0) } else { 1.0 };
        ((self.steps() as f64 * factor).round() as usize).max(1)
    }

    /// Factor on the learning rates of a shortened run.
    pub(super) fn rate_factor(&self) -> f64 {
        self.iters as f64 / self.steps() as f64
    }

    /// Exponent of the regularizer at a step (counted from 1); `None` during warm-up.
    pub(super) fn sharpness(&self, step: usize) -> Option<f64> {
        let (steps, step) = (self.steps() as f64, step as f64);
        let start = self.warm_up * steps;
        let progress = (step - start) / (steps - start);
        let [first, last] = self.b_range;
        (step >= start).then(|| last + (first - last) * (1.0 - progress).max(0.0))
    }

    /// The probability of keeping an element's quantized value at a step (counted from 0).
    pub(super) fn keep_probability(&self, step: usize) -> f32 {
        let last = self.last_drop_prob.unwrap_or(self.drop_prob);
        let share = step as f32 / (self.steps().max(2) - 1) as f32;
        self.drop_prob + (last - self.drop_prob) * share
    }

    /// The parameter groups that have learning rates.
    pub fn groups(&self) -> Vec<&str> {
        let own = [groups::ROUNDING, groups::SCALE, groups::ZERO_POINT];
        let further = self.rates.keys().map(String::as_str).filter(|group| !own.contains(group));
        own.into_iter().chain(further).collect()
    }

    /// Writes the learning rates of a step (counted from 0) to `rates`, group by group.
    pub(super) fn rates_at(&self, step: usize, rates: &mut [(&str, f64)]) {
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / self.steps() as f64).cos());
        for (group, rate) in rates {
            let (initial, decay) = match *group {
                groups::ROUNDING => (self.lr, self.lr_decay),
                other => (*self.rates.get(other).unwrap_or(&self.scale_lr), Decay::Cosine),
            };
            *rate = initial * self.rate_factor();
            if decay == Decay::Cosine {
                *rate *= cosine;
            }
        }
    }
}

/// Parameters of the last stage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkParams {
    /// Steps.
    pub iters: usize,
    /// Samples in each step.
    pub batch_size: usize,
    /// The temperature T, by which outputs are divided before their softmax.
    pub temperature: f64,
    /// Probability of keeping an element's quantized value at the first step; it grows to 1 at the last one.
    pub drop_prob: f32,
    /// How far roundings are opened again: from hard ones to this distance, towards the float weight. At least 0, less than 0.5.
    pub open: f32,
    /// Initial learning rate of rounding variables. All rates decay to 0 along a cosine.
    pub lr: f64,
    /// Initial learning rate of scales.
    pub scale_lr: f64,
    /// Initial learning rates of further groups, as in [`QdropParams::rates`].
    pub rates: BTreeMap<String, f64>,
    /// Weight of the rounding regularizer.
    pub weight: f64,
    /// Share of the steps before the regularizer begins.
    pub warm_up: f64,
    /// Exponent of the regularizer at the end of warm-up and at the last step.
    pub b_range: [f64; 2],
}

impl Default for NetworkParams {
    fn default() -> Self {
        Self {
            iters: 300,
            batch_size: 32,
            temperature: 1.0,
            drop_prob: 0.5,
            open: 0.2,
            lr: 2e-2,
            scale_lr: 2e-4,
            rates: BTreeMap::new(),
            weight: 1e-4,
            warm_up: 0.2,
            b_range: [10.0, 2.0],
        }
    }
}

impl NetworkParams {
    /// The same optimization as that of a unit, with the divergence of the predictions as its loss.
    pub(super) fn optimization(&self) -> QdropParams {
        QdropParams {
            iters: self.iters,
            batch_size: self.batch_size,
            drop_prob: self.drop_prob,
            last_drop_prob: Some(1.0),
            lr: self.lr,
            lr_decay: Decay::Cosine,
            scale_lr: self.scale_lr,
            rates: self.rates.clone(),
            weight: self.weight,
            warm_up: self.warm_up,
            b_range: self.b_range,
            prediction_difference: Some(PredictionDifference {
                weight: 1.0,
                temperature: self.temperature,
                samples: None,
            }),
            only_prediction: true,
            ..Default::default()
        }
    }

    pub(super) fn validate(&self, params: &Params) -> Result<()> {
        let checks = [
            ("temperature", self.temperature > 0.0 && self.temperature.is_finite(), "must be positive"),
            ("open", (0.0..0.5).contains(&self.open), "must be at least 0 and less than 0.5"),
        ];
        if let Some((key, _, message)) = checks.into_iter().find(|(_, ok, _)| !ok) {
            return Err(params.error(&format!("network.{key}"), message));
        }
        self.optimization().checked().map_err(|(key, message)| params.error(&format!("network.{key}"), message))
    }
}

/// Refuses names that `rates` cannot hold. A name that no built-in quantizer knows may be a plugin's, but not if it is
/// all but one of the built-in ones: a slip of the pen would leave, say, the biases as they are.
fn check_group(group: &str) -> Result<(), String> {
    let known = [groups::ZERO_POINT, groups::WEIGHT_SCALE, groups::BIAS];
    match group {
        groups::ROUNDING => Err("the rate of the group 'rounding' is `lr`".into()),
        groups::SCALE => Err("the rate of the group 'scale' is `scale_lr`".into()),
        known_or_own => match nearest(known_or_own, known).filter(|near| near != known_or_own) {
            Some(near) => Err(format!(
                "no parameters are of the group '{group}', did you mean '{near}'? Known groups: {}",
                known.join(", ")
            )),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharpness_follows_the_schedule() {
        let params = QdropParams { iters: 100, ..Default::default() };
        assert_eq!(params.sharpness(19), None);
        assert_eq!(params.sharpness(20), Some(20.0));
        assert_eq!(params.sharpness(60), Some(11.0));
        assert_eq!(params.sharpness(100), Some(2.0));
    }

    #[test]
    fn shorter_runs_scale_the_rates() {
        let params = QdropParams { run_iters: Some(200), ..Default::default() };
        assert_eq!((params.steps(), params.rate_factor()), (200, 100.0));
    }

    #[test]
    fn rates_decay_as_they_should() {
        let mut rates = [(groups::ROUNDING, 0.0), (groups::SCALE, 0.0)];
        let mut params = QdropParams { iters: 100, lr: 0.5, scale_lr: 0.25, ..Default::default() };
        params.rates_at(50, &mut rates);
        assert!(rates[0].1 == 0.5 && (rates[1].1 - 0.125).abs() < 1e-12, "{rates:?}");
        params.lr_decay = Decay::Cosine;
        for (step, share) in [(0, 1.0), (25, 0.5 + 0.125_f64.sqrt()), (50, 0.5), (75, 0.5 - 0.125_f64.sqrt())] {
            params.rates_at(step, &mut rates);
            assert!((rates[0].1 - 0.5 * share).abs() < 1e-12 && (rates[1].1 - 0.25 * share).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn groups_that_are_misspelt_or_have_a_rate_already_are_refused() {
        for known in ["weight_scale", "zero_point", "bias", "temperature_of_mine"] {
            assert_eq!(check_group(known), Ok(()));
        }
        let refused = |group: &str| check_group(group).unwrap_err();
        assert!(refused("biases").contains("did you mean 'bias'?"));
        assert!(refused("weight_scales").contains("did you mean 'weight_scale'?"));
        assert!(refused("rounding").contains("`lr`") && refused("scale").contains("`scale_lr`"));
    }
}
