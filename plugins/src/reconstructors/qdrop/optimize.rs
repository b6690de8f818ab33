//! The steps of a unit's optimization.

use super::best::Best;
use super::params::{Drop, QdropParams};
use super::prediction::Prediction;
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
    let mut rates: Vec<(&str, f64)> = params.groups().into_iter().map(|group| (group, 0.0)).collect();
    let random = context.random;
    let (mut predictions, mut prediction) = (predictions, None);
    context.progress.event(Event::Started { stage: unit.name, total: steps });
    for step in losses.len()..steps {
        if context.progress.cancelled() {
            let mut tensors = engine.state()?;
            best.keep(&mut tensors)?;
            context.interruption.keep(&Interrupted { losses, tensors })?;
            return Err(Error::Cancelled);
        }
        params.rates_at(step, &mut rates);
        let sharpness = params.sharpness(step + 1);
        let samples = params.batches.of_step(random, unit.index, step, params.batch_size, unit.sample_count());
        let keep = |site| match params.drop {
            Drop::Coin => random.keep(unit.index, step, site, params.keep_probability(step)),
            Drop::Mix => random.mixed(unit.index, step, site),
        };
        let reconstruction = match params.prediction_difference {
            None => engine.loss(&samples, &keep)?,
            Some(difference) => {
                let prediction = match &mut prediction {
                    Some(prediction) => prediction,
                    // Not before the first step, before which runs are tried out.
                    none => {
                        let kind = (difference, params.only_prediction);
                        none.insert(Prediction::new(kind, unit, predictions.take(), context)?)
                    }
                };
                prediction.loss(&mut *engine, &samples, &keep)?
            }
        };
        let rounding = engine.update(&rates, sharpness.map(|b| Regularizer { weight: params.weight, b }))?;
        let point = LossPoint { reconstruction, rounding, b: sharpness.unwrap_or(params.b_range[0]) };
        losses.push(point);
        context.progress.event(Event::Step { step: step + 1, loss: point });
        best.check(step + 1, &mut *engine)?;
    }
    let kept = best.restore(steps, &mut *engine)?;
    engine.finish()?;
    context.progress.event(Event::Finished);
    Ok(UnitReport { name: unit.name.into(), losses, kept, ..Default::default() })
}
