//! The steps of a unit's optimization.

use super::best::Best;
use super::params::{Drop, QdropParams};
use super::prediction::Prediction;
use qdrop_core::engine::Step;
use qdrop_core::prelude::*;
use qdrop_core::progress::Event;

/// Learns the parameters of a unit that has begun reconstruction, and resumes an interrupted optimization. The report
/// has no time.
///
/// # Errors
/// The losses diverged, or the run was cancelled.
pub fn optimize(unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> Result<UnitReport> {
    learn(unit, params, None, context)
}

/// The same with the outputs of the float network for all samples, if they do not follow from the unit's targets.
pub(super) fn learn(
    unit: &UnitTask<'_>,
    params: &QdropParams,
    predictions: Option<Vec<Tensor>>,
    context: &Context<'_>,
) -> Result<UnitReport> {
    let mut engine = match params.drop {
        Drop::Coin => unit.engine(params.batch_size, context)?,
        Drop::Mix => unit.mixing_engine(params.batch_size, context)?,
    };
    let steps = params.steps();
    let mut losses = Vec::with_capacity(steps);
    let mut best = Best::new(params, unit.sample_count());
    if let Some(mut state) = context.interruption.resume()? {
        best.resume(&mut state.tensors).map_err(|e| unit.error(e))?;
        engine.restore(state.losses.len(), &state.tensors).map_err(|e| unit.error(e))?;
        losses = state.losses;
    }
    let (mut predictions, mut prediction) = (predictions, None);
    context.progress.event(Event::Started { stage: unit.name, total: steps });
    while losses.len() < steps {
        let first = losses.len();
        if context.progress.cancelled() {
            let mut tensors = engine.state()?;
            best.keep(&mut tensors)?;
            context.interruption.keep(&Interrupted { losses, tensors })?;
            return Err(Error::Cancelled);
        }
        // As many as the engine takes at once, up to one after which the state is measured.
        let count = match params.prediction_difference {
            None => engine.together().min(best.next_due(first).unwrap_or(steps).min(steps) - first),
            Some(_) => 1,
        };
        let planned: Vec<Planned> =
            (first..first + count).map(|step| Planned::new(step, unit, params, context)).collect();
        let computed = match params.prediction_difference {
            None => {
                let keeps: Vec<_> = planned.iter().map(|step| |site| step.keep(site, unit, params, context)).collect();
                let together = planned.iter().zip(&keeps).map(|(step, keep)| Step {
                    samples: &step.samples,
                    keep,
                    rates: &step.rates,
                    regularizer: step.regularizer(params),
                });
                engine.steps(&together.collect::<Vec<_>>())?
            }
            Some(difference) => {
                let prediction = match &mut prediction {
                    Some(prediction) => prediction,
                    // Not before the first step, before which runs are tried out.
                    none => {
                        let kind = (difference, params.only_prediction);
                        none.insert(Prediction::new(kind, unit, predictions.take(), context)?)
                    }
                };
                let mut losses = Vec::new();
                for step in &planned {
                    let keep = |site| step.keep(site, unit, params, context);
                    let loss = prediction.loss(&mut *engine, &step.samples, &keep)?;
                    losses.push([loss, engine.update(&step.rates, step.regularizer(params))?]);
                }
                losses
            }
        };
        for (step, [reconstruction, rounding]) in planned.iter().zip(computed) {
            let b = step.sharpness.unwrap_or(params.b_range[0]);
            let point = LossPoint { reconstruction, rounding, b };
            losses.push(point);
            context.progress.event(Event::Step { step: step.number + 1, loss: point });
        }
        best.check(losses.len(), &mut *engine)?;
    }
    let kept = best.restore(steps, &mut *engine)?;
    engine.finish()?;
    context.progress.event(Event::Finished);
    Ok(UnitReport { name: unit.name.into(), losses, kept, ..Default::default() })
}

/// What a step takes.
struct Planned<'a> {
    number: usize,
    samples: Vec<usize>,
    rates: Vec<(&'a str, f64)>,
    sharpness: Option<f64>,
}

impl<'a> Planned<'a> {
    fn new(number: usize, unit: &UnitTask<'_>, params: &'a QdropParams, context: &Context<'_>) -> Self {
        let mut rates: Vec<(&str, f64)> = params.groups().into_iter().map(|group| (group, 0.0)).collect();
        params.rates_at(number, &mut rates);
        let (size, count) = (params.batch_size, unit.sample_count());
        let samples = params.batches.of_step(context.random, unit.index, number, size, count);
        Self { number, samples, rates, sharpness: params.sharpness(number + 1) }
    }

    fn keep(&self, site: usize, unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> ops::Keep {
        match params.drop {
            Drop::Coin => context.random.keep(unit.index, self.number, site, params.keep_probability(self.number)),
            Drop::Mix => context.random.mixed(unit.index, self.number, site),
        }
    }

    fn regularizer(&self, params: &QdropParams) -> Option<Regularizer> {
        self.sharpness.map(|b| Regularizer { weight: params.weight, b })
    }
}
