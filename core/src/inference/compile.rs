//! From nodes of a graph to a plan.

use super::plan::{Plan, Slot, Step};
use crate::error::{Error, Result};
use crate::fused::shape::{border, convolution, image};
use crate::fused::FusedKernel;
use crate::graph::{Graph, NodeId, Op};
use crate::grid::Granularity;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use qdrop_kernels::nhwc::stage::{Stage, TensorGrid};
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Layout, Packing};
use std::collections::HashMap;

/// A layer's weight as its convolution reads it.
pub struct LayerWeight {
    pub value: Buffer,
    pub bias: Option<Buffer>,
}

/// The weights of all layers.
#[derive(Default)]
pub struct Weights(HashMap<NodeId, LayerWeight>);

impl Weights {
    pub fn new(model: &QuantModel, precision: Precision, nodes: &[NodeId]) -> Result<Self> {
        let graph = model.graph();
        let mut all = HashMap::new();
        for id in nodes {
            let Some(shape) = convolution(graph, *id, 1) else { continue };
            let weight = model.weight(*id)?;
            let weight = match model.weight_site(*id).filter(|_| precision == Precision::Quantized) {
                Some(site) => site.quantizer.fake_quantize(weight)?,
                None => weight.clone(),
            };
            let value = host_values(&weight, |v| ForwardConvolution::weight(&shape, v))?;
            let packing = Packing::of(&shape);
            let bias = model.parameters().get(&format!("{}.bias", graph.node(*id).name));
            let bias = bias.map(|b| host_values(b, |v| packing.pack_lanes(v))).transpose()?;
            all.insert(*id, LayerWeight { value, bias });
        }
        Ok(Self(all))
    }

    pub fn get(&self, node: NodeId) -> Result<&LayerWeight> {
        self.0.get(&node).ok_or_else(|| Error::message("the forward pass: a weight was not prepared"))
    }
}

/// The grid of a node's quantizer, if the kernels know what it computes.
fn grid(model: &QuantModel, id: NodeId) -> Result<Option<TensorGrid>> {
    let Some(site) = model.activation_site(id) else { return Ok(None) };
    let (spec, kernel) = (site.quantizer.spec(), site.quantizer.kernel()?);
    let nearest = matches!(
        kernel,
        Some(FusedKernel::Nearest | FusedKernel::LearnedScale { .. } | FusedKernel::LearnedScaleAndZeroPoint { .. })
    );
    if !nearest || spec.granularity != Granularity::PerTensor {
        return Ok(None);
    }
    let params = site.quantizer.qparams()?;
    let (scale, zero_point) = (params.scale[0], params.zero_point[0].round_ties_even());
    Ok(Some(TensorGrid { scale, zero_point, qmin: spec.qmin(), qmax: spec.qmax() }))
}

/// Builds a plan.
struct Builder<'a> {
    graph: &'a Graph,
    batch: usize,
    steps: Vec<Step>,
    layouts: Vec<Layout>,
    /// Slots whose value nobody reads any more.
    free: Vec<Slot>,
    slots: HashMap<NodeId, Slot>,
    /// Reads of each slot that are still to come.
    reads: HashMap<Slot, usize>,
    /// The border that the readers of each node's value need, and how many read it.
    borders: HashMap<NodeId, usize>,
    readers: HashMap<NodeId, usize>,
}

pub fn compile(
    model: &QuantModel,
    precision: Precision,
    (nodes, inputs, outputs): (&[NodeId], &[NodeId], &[NodeId]),
    weights: &Weights,
    batch: usize,
) -> Result<Plan> {
    let graph = model.graph();
    let mut b = Builder::new(graph, nodes, batch);
    for (input, id) in inputs.iter().enumerate() {
        let to = b.new_slot(*id);
        b.steps.push(Step::Read { input, to });
    }
    for id in nodes {
        let node = graph.node(*id);
        let sources: Option<Vec<Slot>> = node.inputs.iter().map(|i| b.slots.get(i).copied()).collect();
        let sources = sources.ok_or_else(|| Error::graph(&node.name, "an input of this node was not computed"))?;
        let quantized = precision == Precision::Quantized && model.activation_site(*id).is_some();
        let through_tensors = !b.node(*id, &sources, weights);
        if through_tensors {
            let to = b.new_slot(*id);
            b.steps.push(Step::Node { node: *id, from: sources.clone(), to });
        } else if quantized {
            let slot = b.slots[id];
            match grid(model, *id)? {
                Some(grid) => b.stage(slot, |stage| stage.grid.is_none(), |stage| stage.grid = Some(grid)),
                None => b.steps.push(Step::Quantize { node: *id, slot }),
            }
        }
        if let Some(output) = outputs.iter().position(|o| o == id) {
            b.steps.push(Step::Write { slot: b.slots[id], output });
        }
        b.finish(*id, &sources);
    }
    let buffers = b.layouts.iter().map(|layout| (Buffer::zeros(layout.len()), *layout)).collect();
    Ok(Plan { steps: b.steps, buffers })
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, nodes: &[NodeId], batch: usize) -> Self {
        let (mut borders, mut readers) = (HashMap::new(), HashMap::new());
        for id in nodes.iter().rev() {
            let own = borders.get(id).copied().unwrap_or(0);
            let needed = match convolution(graph, *id, batch) {
                Some(shape) => border(&shape),
                // May be computed in place.
                None if matches!(graph.node(*id).op, Op::Activation(_) | Op::Add | Op::Flatten) => own,
                None => 0,
            };
            for input in &graph.node(*id).inputs {
                let border = borders.entry(*input).or_insert(0);
                *border = needed.max(*border);
                *readers.entry(*input).or_insert(0) += 1;
            }
        }
        let (steps, layouts, free) = (Vec::new(), Vec::new(), Vec::new());
        Self { graph, batch, steps, layouts, free, slots: HashMap::new(), reads: HashMap::new(), borders, readers }
    }

    fn readers(&self, id: NodeId) -> usize {
        self.readers.get(&id).copied().unwrap_or(0)
    }

    /// A slot for a node's value: one that is free and has its layout, whose border then is zero, or a new one.
    fn new_slot(&mut self, id: NodeId) -> Slot {
        let [channels, height, width] = image(self.graph, id);
        let border = self.borders.get(&id).copied().unwrap_or(0);
        let layout = Layout { batch: self.batch, height, width, channels, border };
        let slot = match self.free.iter().position(|s| self.layouts[*s] == layout) {
            Some(place) => self.free.swap_remove(place),
            None => {
                self.layouts.push(layout);
                self.layouts.len() - 1
            }
        };
        self.slots.insert(id, slot);
        self.reads.insert(slot, self.readers(id));
        slot
    }

    /// A slot with the value of `source` that may be overwritten by that of `id`.
    fn take(&mut self, id: NodeId, source: Slot) -> Slot {
        if self.reads.get(&source) == Some(&1) {
            self.slots.insert(id, source);
            // The read that `finish` counts for this node is still to come.
            self.reads.insert(source, 1 + self.readers(id));
            return source;
        }
        let to = self.new_slot(id);
        self.steps.push(Step::Copy { from: source, to });
        to
    }

    /// Changes the last step if it is a stage of this slot and `fits`; otherwise adds a stage.
    fn stage(&mut self, slot: Slot, fits: impl Fn(&Stage) -> bool, change: impl Fn(&mut Stage)) {
        match self.steps.last_mut() {
            Some(Step::Stage { stage, slot: last, .. }) if *last == slot && fits(stage) => change(stage),
            _ => {
                let mut stage = Stage { activation: None, grid: None };
                change(&mut stage);
                self.steps.push(Step::Stage { stage, shortcut: None, slot });
            }
        }
    }

    /// Adds the steps of a node, unless it has to go through the tensor library.
    fn node(&mut self, id: NodeId, sources: &[Slot], weights: &Weights) -> bool {
        let graph = self.graph;
        let op = &graph.node(id).op;
        match (op, sources) {
            (op, &[from]) if op.has_weight() => {
                let Some(shape) = convolution(graph, id, self.batch) else { return false };
                let x = self.layouts[from];
                if weights.get(id).is_err() || x.border < border(&shape) {
                    return false;
                }
                let to = self.new_slot(id);
                let convolution = Box::new(ForwardConvolution::new(&shape, x, self.layouts[to]));
                self.steps.push(Step::Convolve { node: id, convolution, from, to });
            }
            (Op::Activation(activation), &[from]) => {
                let slot = self.take(id, from);
                let free = |stage: &Stage| stage.activation.is_none() && stage.grid.is_none();
                self.stage(slot, free, |stage| stage.activation = Some(*activation));
            }
            (Op::Add, &[a, b]) if a != b => {
                let (own, other) = if self.reads.get(&a) == Some(&1) { (a, b) } else { (b, a) };
                let slot = self.take(id, own);
                let stage = Stage { activation: None, grid: None };
                self.steps.push(Step::Stage { stage, shortcut: Some(other), slot });
            }
            (Op::MaxPool(geometry), &[from]) => {
                let x = self.layouts[from];
                let Ok(shape) = geometry.of_planes(x.channels, x.height, x.width) else { return false };
                let to = self.new_slot(id);
                self.steps.push(Step::MaxPool { shape, from, to });
            }
            (Op::GlobalAveragePool, &[from]) => {
                let to = self.new_slot(id);
                self.steps.push(Step::Mean { from, to });
            }
            (Op::Flatten, &[from]) if self.layouts[from].height * self.layouts[from].width == 1 => {
                self.take(id, from);
            }
            _ => return false,
        }
        true
    }

    /// Counts the reads of a node, and frees what nobody reads any more.
    fn finish(&mut self, id: NodeId, sources: &[Slot]) {
        for slot in sources {
            let left = self.reads.entry(*slot).or_insert(1);
            *left -= 1;
            if *left == 0 {
                self.free.push(*slot);
            }
        }
        let own = self.slots[&id];
        if self.readers(id) == 0 && !self.free.contains(&own) {
            self.free.push(own);
        }
    }
}
