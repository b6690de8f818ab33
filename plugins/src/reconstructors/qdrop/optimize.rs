//! The steps of a unit's optimization.

use super::best::Best;
use super::params::QdropParams;
use qdrop_core::prelude::*;
use qdrop_core::progress::Event;

/// Learns the parameters of a unit that has begun reconstruction, and resumes an interrupted optimization. The report
/// has no time.
///
/// # Errors
/// The losses diverged, or the run was cancelled.
pub fn optimize(unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> Result<UnitReport> {
    let mut engine = unit.engine(params.batch_size, context)?;
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
        let keep = |site| random.keep(unit.index, step, site, params.drop_prob);
        let reconstruction = engine.loss(&samples, &keep)?;
        let rounding = engine.update(&rates, sharpness.map(|b| Regularizer { weight: params.weight, b }))?;
        let point = LossPoint { reconstruction, rounding, b: sharpness.unwrap_or(params.b_range[0]) };
        losses.push(point);
        best.check(step + 1, &mut *engine)?;
        context.progress.event(Event::Step { step: step + 1, loss: point });
    }
    let kept = best.restore(steps, &mut *engine)?;
    engine.finish()?;
    context.progress.event(Event::Finished);
    Ok(UnitReport { name: unit.name.into(), losses, kept, ..Default::default() })
}
