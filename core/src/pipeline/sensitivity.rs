//! What each layer and each unit alone loses at few bits, without reconstruction.

mod means;

use super::inspect::sites;
use super::moving::advance;
use super::{Resources, Session, SitePlan};
use crate::cache::{CacheBudget, CachedValues};
use crate::error::{Error, Result};
use crate::graph::{network_unit, Graph, NodeId, SiteKind, Subgraph};
use crate::head::ImageSize;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use crate::report::SiteReport;
use crate::task::{ImageValues, Measurement};
use candle_core::Tensor;
use means::Means;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What is quantized alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Name of the layer, of the quantized value, or of the unit.
    pub name: String,
    /// Whether it is a unit, with all its layers or values.
    pub is_unit: bool,
    /// Whether weights are quantized, or activations.
    pub kind: SiteKind,
}

/// How far the network is from the float one with one part of it quantized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// What is quantized.
    #[serde(flatten)]
    pub subject: Subject,
    /// Its bits.
    pub bits: u32,
    /// Weights that are quantized; 0 for activations.
    pub weights: usize,
    /// The task's deviations from the float network.
    pub measured: Measurement,
}

/// A part to quantize: its sites, all of one kind.
struct Part {
    subject: Subject,
    nodes: BTreeSet<NodeId>,
}

impl Part {
    fn is_same(&self, other: &Self) -> bool {
        self.subject.kind == other.subject.kind && self.nodes == other.nodes
    }

    fn has(&self, plan: &SitePlan) -> bool {
        plan.site.kind == self.subject.kind && self.nodes.contains(&plan.site.node)
    }
}

impl Session<'_> {
    /// Measures each layer and each unit that `is_asked` names alone at each of `bits`, weights and activations apart, in the float
    /// network `model`: with the recipe's observers and nearest rounding, on the images. The result is in the order of execution,
    /// layers before their unit. What comes before a layer is computed once for all its measurements.
    ///
    /// Rounding shifts the means of a layer's outputs, which any reconstruction takes back, and which would hide what stays lost: a
    /// layer whose weight is quantized gets a bias with which its outputs keep their means (Nagel et al., arXiv 1906.04721, section 4.2).
    ///
    /// # Errors
    /// The task does not compare networks without a ground truth, an observer fails, or the run was cancelled.
    pub fn sensitivities(
        &self,
        model: &QuantModel,
        (images, cache): (Arc<CachedValues>, Arc<CacheBudget>),
        bits: &[u32],
        is_asked: &dyn Fn(&Subject) -> bool,
        progress: &dyn Progress,
    ) -> Result<Vec<Sensitivity>> {
        self.check_deviates("task")?;
        let plans = self.plans_of(model.graph())?;
        let graph = model.graph();
        let mut parts = parts(graph, &plans);
        parts.retain(|part| is_asked(&part.subject));
        let is_part = |plan: &SitePlan| parts.iter().any(|part| part.has(plan));
        let asked: Vec<SitePlan> = plans.iter().filter(|plan| is_part(plan)).cloned().collect();
        let calibrated = bits.iter().map(|bits| self.at_bits(model, &asked, *bits, &images, progress));
        let calibrated = calibrated.collect::<Result<Vec<_>>>()?;
        let random = self.random();
        let resources = Resources {
            images: images.clone(),
            cache,
            random: &random,
            progress,
            engine: self.recipe().engine,
            merge: &[],
            checkpoints: None,
        };
        let mut front = HashMap::from([(graph.input(), images)]);
        let mut done = BTreeSet::from([graph.input()]);
        let mut float: Option<Vec<Vec<Tensor>>> = None;
        let mut results: Vec<Sensitivity> = Vec::new();
        progress.event(Event::Started { stage: "analyzing", total: parts.len() * bits.len() });
        for (i, part) in parts.iter().enumerate() {
            let Some(first) = part.nodes.first() else { continue };
            // A unit of one layer was measured as the layer.
            if let Some(same) = parts[..i].iter().position(|other| other.is_same(part)) {
                let known = results[same * bits.len()..][..bits.len()].to_vec();
                results.extend(known.into_iter().map(|one| Sensitivity { subject: part.subject.clone(), ..one }));
                progress.event(Event::Advanced(results.len()));
                continue;
            }
            let before: Vec<NodeId> =
                graph.nodes().map(|(id, _)| id).filter(|id| id < first && !done.contains(id)).collect();
            if !before.is_empty() {
                let before = graph.subgraph(before);
                advance(model, &before, &mut front, Precision::Float, &resources)?;
                done.extend(before.nodes());
                front.retain(|id, _| graph.consumers(*id).iter().any(|c| c >= first) || graph.outputs().contains(id));
            }
            let rest = graph.nodes().map(|(id, _)| id).filter(|id| id >= first);
            let rest = graph.subgraph_with_outputs(rest, graph.outputs().to_vec());
            // All outputs are computed by the first rest, which is the whole network, or nearly so.
            let float = match &float {
                Some(float) => float,
                None => float.insert(outputs((model, Precision::Float), &rest, &front, &resources)?),
            };
            let means = match part.subject.kind {
                SiteKind::Weight => Means::of_float(model, part, &front, &resources)?,
                SiteKind::Activation => Means::default(),
            };
            let weights = match part.subject.kind {
                SiteKind::Weight => {
                    part.nodes.iter().map(|id| Ok(model.weight(*id)?.elem_count())).sum::<Result<_>>()?
                }
                SiteKind::Activation => 0,
            };
            for (bits, calibrated) in bits.iter().zip(&calibrated) {
                let mut variant = self.only(model, calibrated, part, &plans, *bits)?;
                means.restore(&mut variant, &front, &resources)?;
                let own = outputs((&variant, Precision::Quantized), &rest, &front, &resources)?;
                let measured = self.deviation(&own, float)?;
                results.push(Sensitivity { subject: part.subject.clone(), bits: *bits, weights, measured });
                progress.event(Event::Advanced(results.len()));
            }
        }
        progress.event(Event::Finished);
        Ok(results)
    }

    /// How far the results of a network are from those of the float network, batch by batch.
    fn deviation(&self, own: &[Vec<Tensor>], float: &[Vec<Tensor>]) -> Result<Measurement> {
        let metrics = self.task().deviation_metrics().into_iter();
        let mut values: Vec<ImageValues> = metrics.map(|metric| ImageValues { metric, values: Vec::new() }).collect();
        for (own, float) in own.iter().zip(float) {
            for row in self.task().deviations(own, float)? {
                values.iter_mut().zip(row).for_each(|(all, value)| all.values.push(value));
            }
        }
        let images = values.first().map_or(0, |all| all.values.len());
        let mut measured = Measurement::new(images, [("", 0.0); 0]);
        for all in &values {
            measured.insert(&all.metric, all.mean(), all.standard_error());
        }
        Ok(measured)
    }

    /// What quantization without reconstruction does at each site of the float network `model`, with the recipe's bits and observers.
    ///
    /// # Errors
    /// An observer fails.
    pub fn sites(
        &self,
        model: &QuantModel,
        images: &Arc<CachedValues>,
        progress: &dyn Progress,
    ) -> Result<Vec<SiteReport>> {
        let mut quantized = model.float_copy();
        let plans = self.plans_of(model.graph())?;
        self.place(&mut quantized, &plans)?;
        self.calibrate(&mut quantized, &plans, (images, 0), progress)?;
        let network = network_unit(model.graph())?;
        let inputs = std::slice::from_ref(images);
        sites((model, &quantized), &network.subgraph, &quantized.grids(network.nodes())?, [inputs, inputs])
    }

    /// Checks that the task can say how far networks are from each other without a ground truth, which `path` in the recipe asks for.
    pub(super) fn check_deviates(&self, path: &str) -> Result<()> {
        if self.task().deviation_metrics().is_empty() {
            let message =
                format!("the task '{}' does not compare networks without a ground truth", self.recipe().task.name);
            return Err(Error::setting(path, message));
        }
        Ok(())
    }

    /// A copy of the float network with the quantizers of `plans` at so many bits, and their ranges observed.
    fn at_bits(
        &self,
        model: &QuantModel,
        plans: &[SitePlan],
        bits: u32,
        images: &CachedValues,
        progress: &dyn Progress,
    ) -> Result<QuantModel> {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let mut copy = model.float_copy();
        let plans = with_bits(plans, bits);
        self.place(&mut copy, &plans)?;
        self.calibrate(&mut copy, &plans, (images, 0), progress)?;
        Ok(copy)
    }

    /// The float network with the quantizers of this part alone.
    fn only(
        &self,
        model: &QuantModel,
        calibrated: &QuantModel,
        part: &Part,
        plans: &[SitePlan],
        bits: u32,
    ) -> Result<QuantModel> {
        let plans: Vec<SitePlan> = plans.iter().filter(|plan| part.has(plan)).cloned().collect();
        self.copy_with_grids(model, calibrated, &with_bits(&plans, bits))
    }

    /// A copy of `model` with the quantizers of `plans` alone, on the grids that `calibrated` has there.
    pub(super) fn copy_with_grids(
        &self,
        model: &QuantModel,
        calibrated: &QuantModel,
        plans: &[SitePlan],
    ) -> Result<QuantModel> {
        let mut copy = model.float_copy();
        self.place(&mut copy, plans)?;
        let nodes: Vec<NodeId> = plans.iter().map(|plan| plan.site.node).collect();
        copy.restore(&nodes, &calibrated.grids(&nodes)?)?;
        Ok(copy)
    }
}

fn with_bits(plans: &[SitePlan], bits: u32) -> Vec<SitePlan> {
    let mut plans = plans.to_vec();
    plans.iter_mut().for_each(|plan| plan.spec.bits = bits);
    plans
}

/// Each site alone, and all of one kind in a unit.
fn parts(graph: &Graph, plans: &[SitePlan]) -> Vec<Part> {
    let single = plans.iter().map(|plan| Part {
        subject: Subject { name: plan.site.name.clone(), is_unit: false, kind: plan.site.kind },
        nodes: BTreeSet::from([plan.site.node]),
    });
    let of_unit = |unit: &crate::graph::Unit, kind: SiteKind| {
        let inside = plans.iter().filter(|plan| plan.site.kind == kind && unit.subgraph.contains(plan.site.node));
        let subject = Subject { name: unit.name.clone(), is_unit: true, kind };
        Part { subject, nodes: inside.map(|plan| plan.site.node).collect() }
    };
    let units =
        graph.units().iter().flat_map(|unit| [SiteKind::Weight, SiteKind::Activation].map(|kind| of_unit(unit, kind)));
    let mut parts: Vec<Part> = single.chain(units).filter(|part| !part.nodes.is_empty()).collect();
    parts.sort_by_key(|part| part.nodes.first().copied());
    parts
}

/// The results of a network for all images, batch by batch, from the values that `rest` reads.
fn outputs(
    (model, precision): (&QuantModel, Precision),
    rest: &Subgraph,
    front: &HashMap<NodeId, Arc<CachedValues>>,
    resources: &Resources<'_>,
) -> Result<Vec<Vec<Tensor>>> {
    let mut all = Vec::new();
    batches((model, precision), rest, front, resources, |start, values| {
        let shape = resources.images.shape_of(start)?;
        let size = [1, 2].map(|axis| shape.get(axis).copied().unwrap_or(1));
        let count = values.first().map_or(Ok(0), |value| value.dim(0))?;
        all.push(model.finish(values, &vec![ImageSize::whole(size); count])?);
        Ok(())
    })?;
    Ok(all)
}

/// Computes the outputs of a part of a network for all images, batch by batch; `look` gets the number of a batch's first image too.
fn batches(
    (model, precision): (&QuantModel, Precision),
    part: &Subgraph,
    front: &HashMap<NodeId, Arc<CachedValues>>,
    resources: &Resources<'_>,
    mut look: impl FnMut(usize, Vec<Tensor>) -> Result<()>,
) -> Result<()> {
    let missing = |id: &NodeId| Error::graph(&model.graph().node(*id).name, "its value was not computed");
    let read = part.inputs().iter().map(|id| front.get(id).ok_or_else(|| missing(id))).collect::<Result<Vec<_>>>()?;
    let images = &resources.images;
    let (samples, together) = (images.samples(), images.together());
    let mut inference = Inference::new(model, precision, part.clone())?;
    for start in (0..samples).step_by(together) {
        if resources.progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let count = together.min(samples - start);
        let inputs = read.iter().map(|all| all.range(start, count)).collect::<Result<Vec<_>>>()?;
        look(start, inference.run(&inputs)?)?;
    }
    Ok(())
}
