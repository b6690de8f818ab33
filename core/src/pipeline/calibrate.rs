//! Calibration: gives every quantizer its range.

use super::refine::Refinement;
use super::{Registries, SitePlan};
use crate::cache::CachedValues;
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, SiteKind, Subgraph};
use crate::grid::Range;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel, QuantSite};
use crate::observer::Observer;
use crate::progress::{Event, Progress};
use crate::quantizer::Quantizer;
use candle_core::Tensor;
use std::collections::hash_map::Entry;
use std::collections::HashMap;

/// The images that observers see.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    /// All calibration images.
    pub images: &'a CachedValues,
    /// So many of them are observed, from the first one on: as one batch, or group by group.
    pub count: usize,
    /// On so many of them ranges of activations are refined; 0: on none.
    pub refine: usize,
}

impl Observed<'_> {
    /// The first image and the number of images of each batch.
    fn batches(&self) -> Vec<(usize, usize)> {
        let count = self.count.min(self.images.samples());
        match self.images.group() {
            None => vec![(0, count)],
            Some(size) => (0..(count / size).max(1)).map(|group| (group * size, size)).collect(),
        }
    }
}

/// Observes and sets the ranges of the planned quantizers, which the model already holds: for weights from the
/// weights, for activations from images through the full-precision network, batch by batch. The ranges of activations are
/// refined where the images are one batch.
///
/// # Errors
/// A strategy is unknown or fails; a parameter of it is wrong; a range is not finite; the run was cancelled.
pub fn calibrate(
    model: &mut QuantModel,
    plans: &[SitePlan],
    registries: &Registries,
    observed: Observed<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let batches = observed.batches();
    let by_node = activations(plans);
    let total = plans.len() - by_node.len() + by_node.len() * batches.len();
    progress.event(Event::Started { stage: "calibration", total });
    let mut done = 0;
    let mut finished = |progress: &dyn Progress| {
        done += 1;
        progress.event(Event::Advanced(done));
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    };
    for plan in plans.iter().filter(|p| p.site.kind == SiteKind::Weight) {
        let range = observe(plan, registries, model.weight(plan.site.node)?)?;
        let device = model.device().clone();
        if let Some(site) = model.weight_site_mut(plan.site.node) {
            site.quantizer.set_range(&range, &device).map_err(|e| at_site(plan, e))?;
        }
        finished(progress)?;
    }
    let mut observers: HashMap<NodeId, Box<dyn Observer>> = HashMap::new();
    let mut refined: HashMap<NodeId, Range> = HashMap::new();
    for (first, count) in batches {
        let images = observed.images.range(first, count)?;
        model.check_input(&images)?;
        let refine = observed.refine > 0 && observed.images.group().is_none();
        let refinement = if refine { Some(Refinement::new(model, &images, observed.refine)?) } else { None };
        let mut values = HashMap::from([(model.graph().input(), images)]);
        let nodes = model.graph().nodes().skip(1).map(|(id, _)| id);
        for segment in segments(model.graph(), nodes, |id| by_node.contains_key(&id)) {
            let Some(site) = segment.nodes().last() else { continue };
            compute(model, &segment, &mut values)?;
            let (Some(plan), Some(value)) = (by_node.get(site), values.get(site)) else { continue };
            let observer = match observers.entry(*site) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(observer(plan, registries)?),
            };
            observer.observe(value).map_err(|e| at_site(plan, e))?;
            if let Some(refinement) = &refinement {
                let range = observer.range().map_err(|e| at_site(plan, e))?;
                let mut quantizer = build(plan, registries)?;
                let range = refinement.refine(model, plan.site.node, &mut *quantizer, range, &values);
                refined.insert(*site, range.map_err(|e| at_site(plan, e))?);
            }
            finished(progress)?;
        }
    }
    let device = model.device().clone();
    for plan in by_node.values() {
        let range = match (refined.remove(&plan.site.node), observers.get(&plan.site.node)) {
            (Some(range), _) => range,
            (None, Some(observer)) => observer.range().map_err(|e| at_site(plan, e))?,
            (None, None) => continue,
        };
        if let Some(site) = model.activation_site_mut(plan.site.node) {
            site.quantizer.set_range(&range, &device).map_err(|e| at_site(plan, e))?;
        }
    }
    progress.event(Event::Finished);
    Ok(())
}

/// What ranges are observed with.
pub struct Observers<'a> {
    /// The planned quantizers.
    pub plans: &'a [SitePlan],
    /// Where their observers are found.
    pub registries: &'a Registries,
    /// Number of samples that they observe.
    pub samples: usize,
}

/// Observes and sets the ranges of a unit's activations again, from its inputs in the network quantized so far. Weights
/// are in full precision. In the order of execution, each quantizer gets its new range at once, and later values of the
/// unit are computed from what it quantizes.
///
/// # Errors
/// An observer fails, a range is not finite, or the run was cancelled.
pub(super) fn calibrate_unit(
    model: &mut QuantModel,
    unit: &Subgraph,
    inputs: Vec<Tensor>,
    observers: &Observers<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let by_node = activations(observers.plans);
    let mut values: HashMap<NodeId, Tensor> = unit.inputs().iter().copied().zip(inputs).collect();
    for segment in segments(model.graph(), unit.nodes().iter().copied(), |id| by_node.contains_key(&id)) {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let Some(plan) = segment.nodes().last().and_then(|last| by_node.get(last)) else { continue };
        compute(model, &segment, &mut values)?;
        let Some(value) = values.get(&plan.site.node) else { continue };
        let range = observe(plan, observers.registries, value)?;
        let device = model.device().clone();
        if let Some(site) = model.activation_site_mut(plan.site.node) {
            let set = site.quantizer.set_range(&range, &device);
            let quantized = set.and_then(|()| site.quantizer.fake_quantize(value)).map_err(|e| at_site(plan, e))?;
            values.insert(plan.site.node, quantized.detach());
        }
    }
    Ok(())
}

/// The planned quantizers of activations, by node.
fn activations(plans: &[SitePlan]) -> HashMap<NodeId, &SitePlan> {
    plans.iter().filter(|p| p.site.kind == SiteKind::Activation).map(|p| (p.site.node, p)).collect()
}

/// Cuts a part of the network after each node for which `is_end` holds. The value of a segment's last node is among its
/// outputs.
fn segments(graph: &Graph, nodes: impl Iterator<Item = NodeId>, is_end: impl Fn(NodeId) -> bool) -> Vec<Subgraph> {
    let mut all = vec![Vec::new()];
    for id in nodes {
        if let Some(last) = all.last_mut() {
            last.push(id);
        }
        if is_end(id) {
            all.push(Vec::new());
        }
    }
    all.into_iter().filter(|nodes| !nodes.is_empty()).map(|nodes| cut(graph, nodes)).collect()
}

fn cut(graph: &Graph, nodes: Vec<NodeId>) -> Subgraph {
    let part = graph.subgraph(nodes.iter().copied());
    match nodes.last() {
        Some(last) if !part.outputs().contains(last) => {
            let outputs = part.outputs().iter().chain([last]).copied().collect();
            graph.subgraph_with_outputs(nodes, outputs)
        }
        _ => part,
    }
}

/// Computes a segment in full precision. Adds its outputs to `values` and removes the values that no later node reads.
fn compute(model: &QuantModel, segment: &Subgraph, values: &mut HashMap<NodeId, Tensor>) -> Result<()> {
    let graph = model.graph();
    let Some(last) = segment.nodes().last() else { return Ok(()) };
    let inputs = graph.values_of(segment.inputs(), values)?;
    let computed = Inference::new(model, Precision::Float, segment.clone())?.run(&inputs)?;
    values.retain(|id, _| graph.consumers(*id).iter().any(|c| c > last));
    values.extend(segment.outputs().iter().copied().zip(computed));
    Ok(())
}

/// Builds the planned quantizers and puts them into the model. They have no ranges yet.
///
/// # Errors
/// A strategy is unknown or its parameters are wrong.
pub(super) fn place(model: &mut QuantModel, plans: &[SitePlan], registries: &Registries) -> Result<()> {
    for plan in plans {
        let site = QuantSite { name: plan.site.name.clone(), quantizer: build(plan, registries)? };
        match plan.site.kind {
            SiteKind::Weight => model.set_weight_quantizer(plan.site.node, site),
            SiteKind::Activation => model.set_activation_quantizer(plan.site.node, site),
        }
    }
    Ok(())
}

/// The planned quantizer, without a range.
fn build(plan: &SitePlan, registries: &Registries) -> Result<Box<dyn Quantizer>> {
    let (strategy, path) = &plan.quantizer;
    registries.quantizers.get(&strategy.name, path)?.build(&plan.spec, &strategy.params_at(path))
}

/// The planned observer, which has observed nothing.
fn observer(plan: &SitePlan, registries: &Registries) -> Result<Box<dyn Observer>> {
    let (strategy, path) = &plan.observer;
    registries.observers.get(&strategy.name, path)?.build(&plan.spec, &strategy.params_at(path))
}

fn observe(plan: &SitePlan, registries: &Registries, x: &Tensor) -> Result<Range> {
    let mut observer = observer(plan, registries)?;
    observer.observe(x).and_then(|()| observer.range()).map_err(|e| at_site(plan, e))
}

fn at_site(plan: &SitePlan, error: Error) -> Error {
    let kind = match plan.site.kind {
        SiteKind::Weight => "weight",
        SiteKind::Activation => "activation",
    };
    Error::graph(&plan.site.name, format!("{kind}: {error}"))
}
