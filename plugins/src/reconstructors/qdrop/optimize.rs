//! The steps of a unit's optimization.

use super::best::Best;
use super::params::{Drop, QdropParams};
use super::prediction::Prediction;
use qdrop_core::engine::{Step, StepPass, Stepping};
use qdrop_core::prelude::*;
use qdrop_core::progress::Event;
use std::ops::Range;

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
    let group = unit.samples.group();
    if let Some(group) = group.filter(|group| *group != params.batch_size) {
        let size = params.batch_size;
        return Err(
            unit.error(format!("a batch is a group of {group} images, but batch_size is {size}; set it to {group}"))
        );
    }
    let stepping = Stepping { batch: params.batch_size, passes: params.accumulate, mixing: params.drop == Drop::Mix };
    let mut engine = unit.engine_for(stepping, context)?;
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
                let batches = |step| batches(step, params);
                let keep = |batch: usize| move |site| keep(site, batch, unit, params, context);
                let keeps: Vec<_> = planned.iter().flat_map(|step| batches(step.number).map(keep)).collect();
                let samples = planned.iter().flat_map(|step| &step.batches);
                let passes = samples.zip(&keeps).map(|(samples, keep)| StepPass { samples, keep });
                let passes: Vec<_> = passes.collect();
                let together = planned.iter().zip(passes.chunks(params.accumulate)).map(|(step, passes)| Step {
                    passes,
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
                    let keep = |site| keep(site, step.number, unit, params, context);
                    let loss = prediction.loss(&mut *engine, &step.batches[0], &keep)?;
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
    let hard = best.measured();
    let kept = best.restore(steps, &mut *engine)?;
    engine.finish()?;
    context.progress.event(Event::Finished);
    Ok(UnitReport { name: unit.name.into(), losses, kept, hard, ..Default::default() })
}

/// What a step takes.
struct Planned<'a> {
    number: usize,
    /// The samples of each batch.
    batches: Vec<Vec<usize>>,
    rates: Vec<(&'a str, f64)>,
    sharpness: Option<f64>,
}

impl<'a> Planned<'a> {
    fn new(number: usize, unit: &UnitTask<'_>, params: &'a QdropParams, context: &Context<'_>) -> Self {
        let mut rates: Vec<(&str, f64)> = params.groups().into_iter().map(|group| (group, 0.0)).collect();
        params.rates_at(number, &mut rates);
        let of_batch = |batch: usize| {
            let draw = |size, count| params.batches.of_step(context.random, unit.index, batch, size, count);
            match unit.samples.group() {
                None => draw(params.batch_size, unit.sample_count()),
                // One group, whose samples follow each other.
                Some(size) => {
                    let groups = draw(1, unit.sample_count() / size);
                    groups.into_iter().flat_map(|group| group * size..(group + 1) * size).collect()
                }
            }
        };
        let batches = batches(number, params).map(of_batch).collect();
        Self { number, batches, rates, sharpness: params.sharpness(number + 1) }
    }

    fn regularizer(&self, params: &QdropParams) -> Option<Regularizer> {
        self.sharpness.map(|b| Regularizer { weight: params.weight, b })
    }
}

/// The batches of a step, counted over all steps.
fn batches(step: usize, params: &QdropParams) -> Range<usize> {
    step * params.accumulate..(step + 1) * params.accumulate
}

/// What a site keeps in a batch.
fn keep(site: usize, batch: usize, unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> ops::Keep {
    match params.drop {
        Drop::Coin => {
            let probability = params.keep_probability(batch / params.accumulate);
            context.random.keep(unit.index, batch, site, probability)
        }
        Drop::Mix => context.random.mixed(unit.index, batch, site),
    }
}
