//! Giving every quantizer its range.

use super::{Registries, SitePlan};
use crate::error::{Error, Result};
use crate::graph::{NodeId, SiteKind};
use crate::grid::Range;
use crate::model::{Precision, QuantModel, QuantSite};
use crate::progress::{Event, Progress};
use candle_core::Tensor;
use std::collections::HashMap;

/// Gives the planned quantizers, which the model holds, their ranges: weights from the weights,
/// activations from one batch of images through the full-precision network.
///
/// # Errors
/// A strategy is unknown or its parameters are wrong; a range is not finite; the run was cancelled.
pub fn calibrate(
    model: &mut QuantModel,
    plans: &[SitePlan],
    registries: &Registries,
    images: &Tensor,
    progress: &dyn Progress,
) -> Result<()> {
    progress.event(Event::Started { stage: "calibration", total: plans.len() });
    let mut done = 0;
    let mut finished = |progress: &dyn Progress| {
        done += 1;
        progress.event(Event::Advanced(done));
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    };
    let of_kind = |kind| plans.iter().filter(move |p| p.site.kind == kind);
    for plan in of_kind(SiteKind::Weight) {
        let range = observe(plan, registries, model.weight(plan.site.node)?)?;
        let device = model.device().clone();
        if let Some(site) = model.weight_site_mut(plan.site.node) {
            site.quantizer.set_range(&range, &device).map_err(|e| at_site(plan, e))?;
        }
        finished(progress)?;
    }
    let by_node: HashMap<NodeId, &SitePlan> = of_kind(SiteKind::Activation).map(|p| (p.site.node, p)).collect();
    let mut ranges = Vec::new();
    let nodes: Vec<NodeId> = model.graph().nodes().skip(1).map(|(id, _)| id).collect();
    let mut values = HashMap::from([(model.graph().input(), images.clone())]);
    model.check_input(images)?;
    model.run(&nodes, &mut values, model.graph().output(), |id, inputs| {
        let value = model.node_value(id, inputs, Precision::Float)?;
        if let Some(plan) = by_node.get(&id) {
            ranges.push((*plan, observe(plan, registries, &value)?));
            finished(progress)?;
        }
        Ok(value)
    })?;
    let device = model.device().clone();
    for (plan, range) in ranges {
        if let Some(site) = model.activation_site_mut(plan.site.node) {
            site.quantizer.set_range(&range, &device).map_err(|e| at_site(plan, e))?;
        }
    }
    progress.event(Event::Finished);
    Ok(())
}

/// Builds the planned quantizers, without ranges.
///
/// # Errors
/// A strategy is unknown or its parameters are wrong.
pub(super) fn place(model: &mut QuantModel, plans: &[SitePlan], registries: &Registries) -> Result<()> {
    for plan in plans {
        let (strategy, path) = &plan.quantizer;
        let entry = registries.quantizers.get(&strategy.name, path)?;
        let quantizer = entry.build(&plan.spec, &strategy.params_at(path))?;
        let site = QuantSite { name: plan.site.name.clone(), quantizer };
        match plan.site.kind {
            SiteKind::Weight => model.set_weight_quantizer(plan.site.node, site),
            SiteKind::Activation => model.set_activation_quantizer(plan.site.node, site),
        }
    }
    Ok(())
}

fn observe(plan: &SitePlan, registries: &Registries, x: &Tensor) -> Result<Range> {
    let (strategy, path) = &plan.observer;
    let entry = registries.observers.get(&strategy.name, path)?;
    let mut observer = entry.build(&plan.spec, &strategy.params_at(path))?;
    observer.observe(x).and_then(|()| observer.range()).map_err(|e| at_site(plan, e))
}

fn at_site(plan: &SitePlan, error: Error) -> Error {
    let kind = match plan.site.kind {
        SiteKind::Weight => "weight",
        SiteKind::Activation => "activation",
    };
    Error::graph(&plan.site.name, format!("{kind}: {error}"))
}
