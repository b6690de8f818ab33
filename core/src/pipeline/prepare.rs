//! Prepares the float network as the recipe says, and checks that it still computes the same.

use super::{Resources, Session};
use crate::cache::CachedValues;
use crate::difference::relative_change;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::preparation::{Prepared, Preparing};
use crate::progress::{Event, Progress, Silent};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::time::Instant;

/// Images on which the outputs before and after a preparation are compared.
const COMPARED: usize = 16;

/// Ending of the checkpoint's names of corrected biases; before it stands the layer.
const CORRECTED: &str = ".bias_of_quantized";
/// Ending of the checkpoint's names of channel statistics; before it stands the layer.
const STATISTICS: &str = ".statistics";

impl Session<'_> {
    /// Prepares `model`, or restores what an earlier process prepared.
    pub(super) fn prepared(&self, model: &mut QuantModel, resources: &Resources<'_>) -> Result<Prepared> {
        if self.recipe().prepare.is_empty() {
            return Ok(Prepared::default());
        }
        let kept = match resources.checkpoints {
            Some(folder) => folder.prepared(self.device())?,
            None => None,
        };
        if let Some((tensors, prepared)) = kept {
            for (name, value) in tensors {
                let layer = |ending| name.strip_suffix(ending).and_then(|layer| model.graph().find(layer));
                match (layer(CORRECTED), layer(STATISTICS)) {
                    (Some(layer), _) => model.correct_bias(layer, value)?,
                    (_, Some(layer)) => model.restore_statistics(layer, &value)?,
                    (None, None) => model.set_parameter(&name, value)?,
                }
            }
            return Ok(prepared);
        }
        let before = model.parameters().clone();
        let prepared = self.prepare(model, &resources.images, resources.progress)?;
        if let Some(folder) = resources.checkpoints {
            // A parameter that was not set is still the same tensor.
            let changed = |(name, value): (&String, &Tensor)| {
                let old = before.get(name).map(Tensor::id);
                (old != Some(value.id())).then(|| (name.clone(), value.clone()))
            };
            let mut tensors: BTreeMap<String, Tensor> = model.parameters().iter().filter_map(changed).collect();
            let corrected = model.corrected_biases().map(|(layer, bias)| (layer, bias.clone()));
            tensors.extend(
                corrected.map(|(layer, bias)| (format!("{}{CORRECTED}", model.graph().node(layer).name), bias)),
            );
            let statistics = model.statistics_tensors()?;
            tensors.extend(statistics.into_iter().map(|(layer, own)| (format!("{layer}{STATISTICS}"), own)));
            folder.keep_prepared(&tensors, &prepared)?;
        }
        Ok(prepared)
    }

    /// Applies the recipe's preparations to `model`, a float network of the session.
    ///
    /// # Errors
    /// A preparation fails, or changes the network's outputs by more than it states; or the run was cancelled.
    pub fn prepare(&self, model: &mut QuantModel, images: &CachedValues, progress: &dyn Progress) -> Result<Prepared> {
        if self.recipe().prepare.is_empty() {
            return Ok(Prepared::default());
        }
        let start = Instant::now();
        let mut changes = Vec::new();
        progress.event(Event::Started { stage: "preparing", total: self.recipe().prepare.len() });
        let sample = images.first(COMPARED)?;
        let mut before = outputs(model, &sample)?;
        let calibrated = |model: &QuantModel| self.calibrated(model, images, progress);
        for (i, (name, preparation)) in self.preparations().enumerate() {
            let done = preparation.apply(&mut Preparing::new(model, images, &calibrated, progress))?;
            let after = outputs(model, &sample)?;
            let moved = before.iter().zip(&after).map(|(before, after)| relative_change(before, after));
            let beyond = |change: &f64| change.is_nan() || *change > preparation.tolerance();
            if let Some(change) = moved.filter(beyond).max_by(f64::total_cmp) {
                let message = format!(
                    "'{name}' changed the outputs of the float network by {change:.1e} of the largest one, more than the \
                     {:.1e} that it states; remove it, or report the network to its author",
                    preparation.tolerance()
                );
                return Err(Error::setting(format!("prepare[{i}]"), message));
            }
            before = after;
            progress.event(Event::Prepared { name, changes: &done });
            changes.push((name.to_string(), done));
            progress.event(Event::Advanced(i + 1));
        }
        progress.event(Event::Finished);
        Ok(Prepared { changes, seconds: start.elapsed().as_secs_f64() })
    }

    /// A copy of a float network, calibrated as the recipe says, with the ranges that observers give: refining them
    /// (`calibration.refine`) would take longer than all candidates of a preparation.
    fn calibrated(&self, model: &QuantModel, images: &CachedValues, progress: &dyn Progress) -> Result<QuantModel> {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let mut copy = model.float_copy();
        let plans = self.plans_of(copy.graph())?;
        self.place(&mut copy, &plans)?;
        self.calibrate(&mut copy, &plans, (images, 0), &Silent)?;
        Ok(copy)
    }
}

/// All float outputs as one vector for each output.
fn outputs(model: &QuantModel, images: &Tensor) -> Result<Vec<Vec<f32>>> {
    let all = Inference::of_network(model, Precision::Float)?.forward(images)?;
    Ok(all.iter().map(|x| host_values(x, <[f32]>::to_vec)).collect::<candle_core::Result<_>>()?)
}
