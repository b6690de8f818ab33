//! Distribution correction (PD-Quant, arXiv 2212.07048, section 3.3): moves the float inputs of a unit so that the values in it
//! have the statistics of the training images, of which the calibration images are few.

use qdrop_core::cache::CachedValues;
use qdrop_core::model::ChannelStatistics;
use qdrop_core::optim::Adam;
use qdrop_core::prelude::*;
use qdrop_core::progress::Event;
use std::sync::Arc;

// What the paper leaves open is as in the authors' code (github.com/hustvl/PD-Quant, `quant/data_utils.py`).

/// Added to variances before their roots are taken.
const EPSILON: f64 = 1e-6;
/// Steps without a smaller loss after which the rate falls to a tenth.
const PATIENCE: usize = 100;
/// What is smaller by less than this share counts as equal.
const THRESHOLD: f64 = 1e-4;
/// The rate does not fall below this share of the first one.
const SMALLEST_RATE: f64 = 1e-2;

/// Parameters of the correction. The defaults are those that the paper's authors use for ResNets; `change` is 0.01 for RegNets,
/// 0.005 for MobileNetV2 and 0.001 for MNASNet.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistributionCorrection {
    /// Steps for each batch of 32 samples.
    pub iters: usize,
    /// Learning rate of the inputs. It falls to a tenth, and at last to a hundredth, where the loss stops falling.
    pub lr: f64,
    /// By what the squared change of the inputs is divided in the loss: the smaller, the less the inputs change.
    pub change: f64,
}

impl Default for DistributionCorrection {
    fn default() -> Self {
        Self { iters: 500, lr: 1e-3, change: 0.02 }
    }
}

impl DistributionCorrection {
    pub(super) fn validate(&self, params: &Params) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let checks = [
            ("iters", self.iters >= 1, "must be at least 1"),
            ("lr", positive(self.lr), "must be positive"),
            ("change", positive(self.change), "must be positive"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((key, _, message)) => Err(params.error(&format!("distribution_correction.{key}"), message)),
            None => Ok(()),
        }
    }

    /// Replaces the unit's float inputs by corrected ones, and its targets by what the float unit computes from them. A unit
    /// without a layer into which batch normalization was folded stays as it is. Weights must be those of the float network.
    ///
    /// # Errors
    /// Cached values cannot be read or written, an operation fails, or the run was cancelled.
    pub fn apply(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<()> {
        let float = unit.float_model();
        let layers: Vec<NodeId> = unit.nodes().iter().copied().filter(|id| float.statistics(*id).is_some()).collect();
        if layers.is_empty() {
            return Ok(());
        }
        let mut inputs: Vec<CachedValues> = unit.samples.float_inputs.iter().map(|all| all.empty_like()).collect();
        let mut outputs: Vec<CachedValues> = unit.samples.float_outputs.iter().map(|all| all.empty_like()).collect();
        let count = unit.sample_count();
        context.progress.event(Event::Started { stage: "correcting inputs", total: count });
        let together = unit.samples.together();
        for first in (0..count).step_by(together) {
            let samples: Vec<usize> = (first..count.min(first + together)).collect();
            let corrected = self.correct(unit, &layers, &samples, context)?;
            inputs.iter_mut().zip(&corrected).try_for_each(|(all, batch)| all.push(batch))?;
            // As they were cached.
            let read = inputs.iter().map(|all| all.range(first, samples.len())).collect::<Result<Vec<_>>>()?;
            for (all, batch) in outputs.iter_mut().zip(float.run(unit.part(), &read, Precision::Float)?) {
                all.push(&batch.detach())?;
            }
            context.progress.event(Event::Advanced(first + samples.len()));
        }
        context.progress.event(Event::Finished);
        unit.samples.float_inputs = inputs.into_iter().map(Arc::new).collect();
        unit.samples.float_outputs = outputs.into_iter().map(Arc::new).collect();
        Ok(())
    }

    /// The corrected inputs of some samples.
    fn correct(
        &self,
        unit: &UnitTask<'_>,
        layers: &[NodeId],
        samples: &[usize],
        context: &Context<'_>,
    ) -> Result<Vec<Tensor>> {
        let float = unit.float_model();
        let part = float.graph().subgraph_with_outputs(unit.nodes().iter().copied(), layers.to_vec());
        let goals: Vec<Goal> =
            layers.iter().filter_map(|id| float.statistics(*id)).map(|s| Goal::new(s, float)).collect::<Result<_>>()?;
        let before = unit.samples.float_inputs.iter().map(|all| all.gather(samples)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<Var> = before.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
        let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
        let mut adam = Adam::new(inputs.iter().map(|var| (var.clone(), None)).collect())?;
        let mut rate = Rate::new(self.lr);
        for _ in 0..self.iters {
            if context.progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let mut loss = Tensor::zeros((), DType::F32, float.device())?;
            for (values, goal) in float.run(&part, &tensors, Precision::Float)?.iter().zip(&goals) {
                loss = (loss + goal.distance(values)?)?;
            }
            for (now, before) in tensors.iter().zip(&before) {
                loss = (loss + (ops::reconstruction_loss(now, before)? / self.change)?)?;
            }
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(unit.error("the loss of the distribution correction is not finite; lower its `lr`"));
            }
            adam.step(&loss.backward()?, rate.now)?;
            rate.after(value);
        }
        Ok(tensors.iter().map(|x| Ok(x.copy()?.detach())).collect::<candle_core::Result<_>>()?)
    }
}

/// The statistics that a layer's outputs should have.
struct Goal {
    mean: Tensor,
    /// The standard deviation before batch normalization.
    deviation: Tensor,
    /// How many times as large a difference was before batch normalization.
    before: Tensor,
}

impl Goal {
    fn new(statistics: &ChannelStatistics, model: &QuantModel) -> Result<Self> {
        let row = |values: Vec<f32>| Tensor::from_vec(values, (1, statistics.mean.len()), model.device());
        let deviation = |own: &f32| (f64::from(*own).powi(2) + EPSILON).sqrt() as f32;
        Ok(Self {
            mean: row(statistics.mean.clone())?,
            deviation: row(statistics.deviation.iter().map(deviation).collect())?,
            before: row(statistics.before.clone())?,
        })
    }

    /// The squared distances of mean and standard deviation of each image's channels, before batch normalization, summed over
    /// channels and averaged over images (the authors' code, `quant/data_utils.py`). Where a channel has one position alone,
    /// it has no standard deviation.
    fn distance(&self, values: &Tensor) -> candle_core::Result<Tensor> {
        let images = values.dim(0)? as f64;
        let values = values.flatten_from(2)?;
        let positions = values.dim(2)?;
        let mean = values.mean_keepdim(2)?;
        let off = mean.squeeze(2)?.broadcast_sub(&self.mean)?.broadcast_mul(&self.before)?;
        let mut distance = off.sqr()?.sum_all()?;
        if positions > 1 {
            let off = values.broadcast_sub(&mean)?.broadcast_mul(&self.before.unsqueeze(2)?)?;
            let variance = (off.sqr()?.sum(2)? / (positions - 1) as f64)?;
            let off = (variance + EPSILON)?.sqrt()?.broadcast_sub(&self.deviation)?;
            distance = (distance + off.sqr()?.sum_all()?)?;
        }
        distance / images
    }
}

/// A learning rate that falls where the loss stops falling.
struct Rate {
    now: f64,
    smallest: f64,
    best: f64,
    since: usize,
}

impl Rate {
    fn new(first: f64) -> Self {
        Self { now: first, smallest: first * SMALLEST_RATE, best: f64::INFINITY, since: 0 }
    }

    fn after(&mut self, loss: f64) {
        if loss < self.best * (1.0 - THRESHOLD) {
            (self.best, self.since) = (loss, 0);
            return;
        }
        self.since += 1;
        if self.since > PATIENCE {
            (self.now, self.since) = ((self.now * 0.1).max(self.smallest), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_where_the_loss_stops_falling() {
        let mut rate = Rate::new(0.5);
        // Less than the threshold below the best loss.
        for loss in std::iter::once(1.0).chain([0.99995; 100]) {
            rate.after(loss);
        }
        assert_eq!(rate.now, 0.5);
        rate.after(0.99995);
        assert_eq!(rate.now, 0.05);
        // A smaller loss begins anew.
        (0..100).for_each(|_| rate.after(1.0));
        rate.after(0.5);
        (0..100).for_each(|_| rate.after(0.5));
        assert_eq!(rate.now, 0.05);
        (0..500).for_each(|_| rate.after(f64::INFINITY));
        assert_eq!(rate.now, 0.005);
    }
}
