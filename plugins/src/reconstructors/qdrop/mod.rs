//! QDrop's reconstruction (arXiv 2203.05740, algorithm 1), block by block or layer by layer.

mod batches;
mod best;
mod correction;
mod fast;
mod gptq;
mod grid;
mod network;
mod optimize;
mod params;
mod prediction;

pub use batches::Batches;
pub use correction::DistributionCorrection;
pub use gptq::Start;
pub use optimize::optimize;
pub use params::{Decay, Drop, NetworkParams, QdropParams};
pub use prediction::PredictionDifference;

use network::open_roundings;
use qdrop_core::prelude::*;
use std::time::Instant;

struct Qdrop {
    params: QdropParams,
    grouping: Grouping,
    path: String,
    /// Whether the parameters are meant for a certain number of steps, as published ones are.
    fixed_iters: bool,
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
        let share = |own: usize| (own * iters).div_ceil(self.params.iters).max(1);
        if let Some(network) = &mut self.params.network {
            network.iters = share(network.iters);
        }
        if let Some(correction) = &mut self.params.distribution_correction {
            correction.iters = correction.iters.min(share(correction.iters));
        }
        if self.fixed_iters {
            self.params.run_iters = Some(iters);
        } else {
            fast::set_iters(&mut self.params, iters);
        }
        Ok(())
    }

    fn steps(&self) -> usize {
        self.params.steps()
    }

    fn steps_at(&self, cost: f64) -> usize {
        self.params.steps_at(cost)
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
        let (float_inputs, targets) = (unit.samples.float_inputs.clone(), unit.samples.float_outputs.clone());
        let mut predictions = None;
        if let Some(correction) = &self.params.distribution_correction {
            if !unit.float_model().has_statistics() {
                let message =
                    "no batch normalization was folded into a layer of the network, so nothing is known about \
                               the training images; remove it";
                return Err(Error::setting(format!("{}.distribution_correction", self.path), message));
            }
            // Runs that are tried out stop before the first step.
            if !context.progress.cancelled() {
                // Before the unit's targets change.
                let of = |_| prediction::predictions(unit, &unit.rest(context)?);
                predictions = self.params.prediction_difference.map(of).transpose()?;
                correction.apply(unit, context)?;
            }
        }
        match self.params.start {
            Start::Nearest => {}
            Start::Gptq => gptq::start(unit)?,
        }
        if self.params.clip_targets {
            unit.clip_to_ranges()?;
        }
        unit.begin(&self.params.groups())?;
        let params = QdropParams { run_iters: Some(self.params.steps_at(unit.cost())), ..self.params.clone() };
        let report = optimize::learn(unit, &params, predictions, context)?;
        unit.finish()?;
        (unit.samples.float_inputs, unit.samples.float_outputs) = (float_inputs, targets);
        unit.match_statistics(self.params.match_statistics)?;
        Ok(UnitReport { seconds: start.elapsed().as_secs_f64(), ..report })
    }

    fn network_steps(&self) -> usize {
        self.params.network.as_ref().map_or(0, |network| network.iters)
    }

    fn reconstruct_network(&self, network: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        let Some(params) = &self.params.network else {
            return Err(network.error("the recipe has no parameters for this stage"));
        };
        open_roundings(network, params.open)?;
        let optimization = params.optimization();
        network.begin(&optimization.groups())?;
        let report = optimize(network, &optimization, context)?;
        network.finish()?;
        Ok(report)
    }
}

fn build(params: &Params, grouping: Grouping) -> Result<Box<dyn Reconstructor>> {
    let parsed = params.parse::<QdropParams>()?.validate(params)?;
    Ok(Box::new(Qdrop { params: parsed, grouping, path: params.path().into(), fixed_iters: true }))
}

register_reconstructor! {
    name: "fast", aliases: [], summary: "`qdrop` with parameters for minutes instead of hours, and for any number of steps",
    build: |params| Ok(Box::new(Qdrop {
        params: fast::fast(params)?, grouping: Grouping::Block, path: params.path().into(), fixed_iters: false
    }))
}

register_reconstructor! {
    name: "qdrop", aliases: [], summary: "block by block, dropping activation quantization at random (QDrop); drop_prob 1.0: BRECQ",
    build: |params| build(params, Grouping::Block)
}

register_reconstructor! {
    name: "layerwise", aliases: [], summary: "every layer its own unit (AdaRound), with the same optimization",
    build: |params| build(params, Grouping::Layer)
}
