//! QDrop's reconstruction (arXiv 2203.05740, algorithm 1), block by block or layer by layer.

use qdrop_core::prelude::*;
use qdrop_core::progress::Event;
use qdrop_core::registry::nearest;
use std::collections::BTreeMap;
use std::time::Instant;

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
    /// Samples in each step.
    pub batch_size: usize,
    /// Probability of keeping an element's quantized value; 1.0 means no drop (BRECQ).
    pub drop_prob: f32,
    /// Learning rate of rounding variables.
    pub lr: f64,
    /// Initial learning rate of scales, and of zero points unless `rates` has one for them; it decays to 0 along a
    /// cosine.
    pub scale_lr: f64,
    /// Initial learning rates of further parameter groups, which decay in the same way: `weight_scale`, `zero_point`,
    /// groups of a plugin's quantizer, and `bias`, which makes the biases of layers learned.
    pub rates: BTreeMap<String, f64>,
    /// Weight of the rounding regularizer (lambda).
    pub weight: f64,
    /// Share of the steps before the regularizer begins.
    pub warm_up: f64,
    /// Exponent of the regularizer at the end of warm-up and at the last step.
    pub b_range: [f64; 2],
}

impl Default for QdropParams {
    fn default() -> Self {
        Self {
            iters: 20_000,
            run_iters: None,
            batch_size: 32,
            drop_prob: 0.5,
            lr: 1e-3,
            scale_lr: 4e-5,
            rates: BTreeMap::new(),
            weight: 0.01,
            warm_up: 0.2,
            b_range: [20.0, 2.0],
        }
    }
}

impl QdropParams {
    fn validate(self, params: &Params) -> Result<Self> {
        let checks = [
            ("iters", self.iters >= 1, "must be at least 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("drop_prob", (0.0..=1.0).contains(&self.drop_prob), "is a probability between 0 and 1"),
            ("lr", self.lr >= 0.0 && self.lr.is_finite(), "must not be negative"),
            ("scale_lr", self.scale_lr >= 0.0 && self.scale_lr.is_finite(), "must not be negative"),
            ("rates", self.rates.values().all(|r| *r >= 0.0 && r.is_finite()), "must not be negative"),
            ("weight", self.weight >= 0.0 && self.weight.is_finite(), "must not be negative"),
            ("warm_up", (0.0..1.0).contains(&self.warm_up), "is a share between 0 and 1"),
            ("b_range", self.b_range.iter().all(|b| *b > 0.0 && b.is_finite()), "must be positive"),
        ];
        if let Some((key, _, message)) = checks.into_iter().find(|(_, ok, _)| !ok) {
            return Err(params.error(key, message));
        }
        self.rates.keys().try_for_each(|group| check_group(group).map_err(|why| params.error("rates", why)))?;
        Ok(self)
    }

    /// Number of steps that are run.
    fn steps(&self) -> usize {
        self.run_iters.unwrap_or(self.iters)
    }

    /// Factor on the learning rates of a shortened run.
    fn rate_factor(&self) -> f64 {
        self.iters as f64 / self.steps() as f64
    }

    /// Exponent of the regularizer at a step (counted from 1); `None` during warm-up.
    fn sharpness(&self, step: usize) -> Option<f64> {
        let (steps, step) = (self.steps() as f64, step as f64);
        let start = self.warm_up * steps;
        let progress = (step - start) / (steps - start);
        let [first, last] = self.b_range;
        (step >= start).then(|| last + (first - last) * (1.0 - progress).max(0.0))
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

impl QdropParams {
    /// The parameter groups that have learning rates.
    pub fn groups(&self) -> Vec<&str> {
        let own = [groups::ROUNDING, groups::SCALE, groups::ZERO_POINT];
        let further = self.rates.keys().map(String::as_str).filter(|group| !own.contains(group));
        own.into_iter().chain(further).collect()
    }

    /// Writes the learning rates of a step (counted from 0) to `rates`, group by group.
    fn rates_at(&self, step: usize, rates: &mut [(&str, f64)]) {
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / self.steps() as f64).cos());
        for (group, rate) in rates {
            *rate = match *group {
                groups::ROUNDING => self.lr * self.rate_factor(),
                other => self.rates.get(other).unwrap_or(&self.scale_lr) * self.rate_factor() * cosine,
            };
        }
    }
}

/// Learns the parameters of a unit that has begun reconstruction, and resumes an interrupted optimization. Returns
/// the losses of each step.
///
/// # Errors
/// The losses diverged, or the run was cancelled.
pub fn optimize(unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> Result<Vec<LossPoint>> {
    let mut engine = unit.engine(params.batch_size, context)?;
    let steps = params.steps();
    let mut losses = Vec::with_capacity(steps);
    if let Some(state) = context.interruption.resume()? {
        engine.restore(state.losses.len(), &state.tensors).map_err(|e| unit.error(e))?;
        losses = state.losses;
    }
    let mut rates: Vec<(&str, f64)> = params.groups().into_iter().map(|group| (group, 0.0)).collect();
    let random = context.random;
    context.progress.event(Event::Started { stage: unit.name, total: steps });
    for step in losses.len()..steps {
        if context.progress.cancelled() {
            context.interruption.keep(&Interrupted { losses, tensors: engine.state()? })?;
            return Err(Error::Cancelled);
        }
        params.rates_at(step, &mut rates);
        let sharpness = params.sharpness(step + 1);
        let samples = random.batch(unit.index, step, params.batch_size, unit.sample_count());
        let keep = |site| random.keep(unit.index, step, site, params.drop_prob);
        let reconstruction = engine.loss(&samples, &keep)?;
        let rounding = engine.update(&rates, sharpness.map(|b| Regularizer { weight: params.weight, b }))?;
        let point = LossPoint { reconstruction, rounding, b: sharpness.unwrap_or(params.b_range[0]) };
        losses.push(point);
        context.progress.event(Event::Step { step: step + 1, loss: point });
    }
    engine.finish()?;
    context.progress.event(Event::Finished);
    Ok(losses)
}

struct Qdrop {
    params: QdropParams,
    grouping: Grouping,
    path: String,
}

impl Reconstructor for Qdrop {
    fn grouping(&self) -> Grouping {
        self.grouping
    }

    fn check_samples(&self, samples: usize) -> Result<()> {
        let batch = self.params.batch_size;
        if samples < batch {
            let message = format!(
                "the calibration set has {samples} images, fewer than a batch of {batch}; add images or lower it"
            );
            return Err(Error::setting(format!("{}.batch_size", self.path), message));
        }
        Ok(())
    }

    fn shorten(&mut self, iters: usize) -> Result<()> {
        if iters == 0 {
            return Err(Error::setting("run_iters", "must be at least 1"));
        }
        self.params.run_iters = Some(iters);
        Ok(())
    }

    fn steps(&self) -> usize {
        self.params.steps()
    }

    fn notice(&self) -> Option<String> {
        let steps = self.params.run_iters?;
        let (iters, factor) = (self.params.iters, self.params.rate_factor());
        Some(format!(
            "{steps} iterations instead of {iters}, learning rates x {factor}: the result is not comparable with published ones"
        ))
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        let start = Instant::now();
        unit.begin(&self.params.groups())?;
        let losses = optimize(unit, &self.params, context)?;
        unit.finish()?;
        Ok(UnitReport { name: unit.name.into(), losses, seconds: start.elapsed().as_secs_f64() })
    }
}

fn build(params: &Params, grouping: Grouping) -> Result<Box<dyn Reconstructor>> {
    let parsed = params.parse::<QdropParams>()?.validate(params)?;
    Ok(Box::new(Qdrop { params: parsed, grouping, path: params.path().into() }))
}

register_reconstructor! {
    name: "qdrop", aliases: [], summary: "block by block, dropping activation quantization at random (QDrop); drop_prob 1.0: BRECQ",
    build: |params| build(params, Grouping::Block)
}

register_reconstructor! {
    name: "layerwise", aliases: [], summary: "every layer its own unit (AdaRound), with the same optimization",
    build: |params| build(params, Grouping::Layer)
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
