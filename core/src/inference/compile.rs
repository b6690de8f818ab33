//! Compiles a part of a graph into a program.

use super::program::{Instruction, Program, Slot};
use super::weights::{Place, Weights};
use crate::error::{Error, Result};
use crate::graph::geometry::{border, convolution, image};
use crate::graph::{Graph, NodeId, Op, Subgraph};
use crate::grid::Granularity;
use crate::model::{Precision, QuantModel};
use crate::quantizer::QuantizerKernel;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::{Function, Stage, TensorGrid};
use qdrop_kernels::nhwc::{Layout, Steps};
use std::collections::HashMap;

/// The grid of a node's quantizer, if the kernels support the quantizer.
fn grid(model: &QuantModel, id: NodeId) -> Result<Option<TensorGrid>> {
    let Some(site) = model.activation_site(id) else { return Ok(None) };
    let (spec, kernel) = (site.quantizer.spec(), site.quantizer.kernel()?);
    let nearest = match kernel {
        Some(
            QuantizerKernel::Nearest
            | QuantizerKernel::LearnedScale { .. }
            | QuantizerKernel::LearnedScaleAndZeroPoint { .. },
        ) => true,
        Some(QuantizerKernel::SoftRounding { .. }) | None => false,
    };
    if !nearest || spec.granularity != Granularity::PerTensor {
        return Ok(None);
    }
    let params = site.quantizer.qparams()?;
    let (scale, zero_point) = (params.scale[0], params.zero_point[0].round_ties_even());
    Ok(Some(TensorGrid { scale, zero_point, qmin: spec.qmin(), qmax: spec.qmax() }))
}

/// Builds a program.
struct Builder<'a> {
    graph: &'a Graph,
    batch: usize,
    bordered: bool,
    instructions: Vec<Instruction>,
    layouts: Vec<Layout>,
    /// Slots whose value has no further reader.
    free: Vec<Slot>,
    slots: HashMap<NodeId, Slot>,
    /// Number of readers of each slot that are not compiled yet.
    reads: HashMap<Slot, usize>,
    /// The border that the readers of each node's value need, and their number.
    borders: HashMap<NodeId, usize>,
    readers: HashMap<NodeId, usize>,
}

/// `graph` is the model's, with the shapes of the values that are computed. `bordered` says whether convolutions read their padding as a border of zeros.
pub fn compile<P: Place>(
    (model, graph): (&QuantModel, &Graph),
    precision: Precision,
    part: &Subgraph,
    weights: &Weights<P>,
    batch: usize,
    bordered: bool,
) -> Result<Program> {
    let mut b = Builder::new(graph, part, batch, bordered);
    for (input, id) in part.inputs().iter().enumerate() {
        let to = b.new_slot(*id);
        b.instructions.push(Instruction::Read { input, to });
        // An output that passes through, written before an operation may compute in its place.
        if let Some(output) = part.outputs().iter().position(|o| o == id) {
            b.instructions.push(Instruction::Write { slot: to, output });
        }
    }
    for id in part.nodes() {
        let node = graph.node(*id);
        let sources: Option<Vec<Slot>> = node.inputs.iter().map(|i| b.slots.get(i).copied()).collect();
        let sources = sources.ok_or_else(|| Error::graph(&node.name, "an input of this node was not computed"))?;
        let quantized = precision == Precision::Quantized && model.activation_site(*id).is_some();
        let through_tensors = !b.node(*id, &sources, weights);
        if through_tensors {
            let to = b.new_slot(*id);
            b.instructions.push(Instruction::Node { node: *id, from: sources.clone(), to });
        } else if quantized {
            let slot = b.slots[id];
            match grid(model, *id)? {
                Some(grid) => b.stage(slot, |stage| stage.grid.is_none(), |stage| stage.grid = Some(grid)),
                None => b.instructions.push(Instruction::Quantize { node: *id, slot }),
            }
        }
        if let Some(output) = part.outputs().iter().position(|o| o == id) {
            b.instructions.push(Instruction::Write { slot: b.slots[id], output });
        }
        b.finish(*id, &sources);
    }
    Ok(Program { instructions: b.instructions, layouts: b.layouts })
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, part: &Subgraph, batch: usize, bordered: bool) -> Self {
        let (mut borders, mut readers) = (HashMap::new(), HashMap::new());
        for id in part.nodes().iter().rev() {
            let own = borders.get(id).copied().unwrap_or(0);
            let needed = match convolution(graph, *id, batch) {
                _ if !bordered => 0,
                Some(shape) => border(&shape),
                // These may run in place, on a value whose border their readers need.
                None if matches!(graph.node(*id).op, Op::Activation(_) | Op::Clip | Op::Add | Op::Flatten) => own,
                None => 0,
            };
            for input in &graph.node(*id).inputs {
                let border = borders.entry(*input).or_insert(0);
                *border = needed.max(*border);
                *readers.entry(*input).or_insert(0) += 1;
            }
        }
        let (instructions, layouts, free) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            graph,
            batch,
            bordered,
            instructions,
            layouts,
            free,
            slots: HashMap::new(),
            reads: HashMap::new(),
            borders,
            readers,
        }
    }

    fn readers(&self, id: NodeId) -> usize {
        self.readers.get(&id).copied().unwrap_or(0)
    }

    /// A slot for a node's value: a free one of the same layout, whose border is still zero, or a new one.
    fn new_slot(&mut self, id: NodeId) -> Slot {
        let [channels, height, width] = image(self.graph, id);
        let border = self.borders.get(&id).copied().unwrap_or(0);
        let layout = Layout { batch: self.batch, height, width, channels, border };
        let slot = self.slot(layout);
        self.slots.insert(id, slot);
        self.reads.insert(slot, self.readers(id));
        slot
    }

    /// A slot of this layout that nothing else uses.
    fn slot(&mut self, layout: Layout) -> Slot {
        match self.free.iter().position(|s| self.layouts[*s] == layout) {
            Some(place) => self.free.swap_remove(place),
            None => {
                self.layouts.push(layout);
                self.layouts.len() - 1
            }
        }
    }

    /// A slot that holds the value of `source` and that the value of `id` may overwrite.
    fn take(&mut self, id: NodeId, source: Slot) -> Slot {
        if self.reads.get(&source) == Some(&1) {
            self.slots.insert(id, source);
            // `finish` will count the read of this node too.
            self.reads.insert(source, 1 + self.readers(id));
            return source;
        }
        let to = self.new_slot(id);
        self.instructions.push(Instruction::Copy { from: source, to });
        to
    }

    /// A slot with a part of `source` divided by the scale of the layer `id`, which alone reads it.
    fn steps(&mut self, id: NodeId, part: Steps, source: Slot) -> Slot {
        // The whole steps are the last of the layer's reads.
        let slot = if part == Steps::Whole && self.reads.get(&source) == Some(&1) {
            source
        } else {
            let slot = self.slot(self.layouts[source]);
            self.instructions.push(Instruction::Copy { from: source, to: slot });
            slot
        };
        self.instructions.push(Instruction::ToSteps { node: id, part, slot });
        slot
    }

    /// Adds a convolution from slot to slot.
    fn convolve(&mut self, id: NodeId, shape: &Conv2dShape, from: Slot, to: Slot) {
        self.instructions.push(Instruction::Convolve { node: id, shape: *shape, from, to });
    }

    /// Adds a layer that is sums of integers.
    fn sums(&mut self, id: NodeId, shape: &Conv2dShape, from: Slot, rest: bool) {
        let rest = rest.then(|| self.steps(id, Steps::Rest, from));
        let whole = self.steps(id, Steps::Whole, from);
        let to = self.new_slot(id);
        self.convolve(id, shape, whole, to);
        let rest = rest.map(|from| {
            let to = self.slot(self.layouts[to]);
            self.convolve(id, shape, from, to);
            self.free.push(from);
            to
        });
        self.instructions.push(Instruction::FromSums { node: id, slot: to, rest });
        self.free.extend(rest);
        self.free.extend((whole != from).then_some(whole));
    }

    /// Changes the last instruction if it is a stage of this slot and `fits`; otherwise adds a stage.
    fn stage(&mut self, slot: Slot, fits: impl Fn(&Stage<NodeId>) -> bool, change: impl Fn(&mut Stage<NodeId>)) {
        match self.instructions.last_mut() {
            Some(Instruction::Stage { stage, slot: last, .. }) if *last == slot && fits(stage) => change(stage),
            _ => {
                let mut stage = Stage { activation: None, grid: None };
                change(&mut stage);
                self.instructions.push(Instruction::Stage { stage, shortcut: None, slot });
            }
        }
    }

    /// Applies an activation function to a value.
    fn activation(&mut self, id: NodeId, from: Slot, function: Function<NodeId>) {
        let slot = self.take(id, from);
        let free = |stage: &Stage<NodeId>| stage.activation.is_none() && stage.grid.is_none();
        self.stage(slot, free, |stage| stage.activation = Some(function));
    }

    /// Adds the instructions of a node. Returns false if candle has to compute it.
    fn node<P: Place>(&mut self, id: NodeId, sources: &[Slot], weights: &Weights<P>) -> bool {
        let graph = self.graph;
        let op = &graph.node(id).op;
        match (op, sources) {
            (Op::Conv2d { .. } | Op::Linear { .. }, &[from]) => {
                let Some(shape) = convolution(graph, id, self.batch) else { return false };
                let lacks_border = self.bordered && self.layouts[from].border < border(&shape);
                if lacks_border || !weights.has_layer(id) {
                    return false;
                }
                if let Some(sums) = weights.find_sums(id) {
                    self.sums(id, &shape, from, sums.layer.rest);
                } else {
                    let to = self.new_slot(id);
                    self.convolve(id, &shape, from, to);
                }
            }
            (Op::Activation(activation), &[from]) => self.activation(id, from, Function::Activation(*activation)),
            (Op::Clip, &[from]) => self.activation(id, from, Function::Clip(id)),
            (Op::Add, &[a, b]) if a != b => {
                let (own, other) = if self.reads.get(&a) == Some(&1) { (a, b) } else { (b, a) };
                let slot = self.take(id, own);
                let stage = Stage { activation: None, grid: None };
                self.instructions.push(Instruction::Stage { stage, shortcut: Some(other), slot });
            }
            (Op::MaxPool(geometry), &[from]) => {
                let x = self.layouts[from];
                let Ok(shape) = geometry.of_planes(x.channels, x.height, x.width) else { return false };
                let to = self.new_slot(id);
                self.instructions.push(Instruction::MaxPool { shape, from, to });
            }
            (Op::AveragePool(geometry), &[from]) => {
                let x = self.layouts[from];
                let Ok(shape) = geometry.of_planes(x.channels, x.height, x.width) else { return false };
                let to = self.new_slot(id);
                self.instructions.push(Instruction::AveragePool { shape, from, to });
            }
            (Op::GlobalAveragePool, &[from]) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Mean { from, to });
            }
            (Op::Mul, &[x, factor]) => {
                let (whole, one) = (self.layouts[x], self.layouts[factor]);
                let pixels = |layout: Layout| [layout.height, layout.width];
                if pixels(one) != pixels(whole) && pixels(one) != [1, 1] || one.channels != whole.channels {
                    return false;
                }
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Multiply { x, factor, to });
            }
            (Op::Concat, from) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Concat { from: from.to_vec(), to });
            }
            (Op::Slice { start, .. }, &[from]) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Slice { start: *start, from, to });
            }
            (Op::ShuffleChannels { groups }, &[from]) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Shuffle { groups: *groups, from, to });
            }
            (Op::BatchNorm { .. }, &[from]) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::Affine { node: id, from, to });
            }
            (Op::LayerNorm { eps }, &[from]) => {
                let to = self.new_slot(id);
                self.instructions.push(Instruction::LayerNorm { node: id, eps: *eps as f32, from, to });
            }
            (Op::Flatten, &[from]) if self.layouts[from].height * self.layouts[from].width == 1 => {
                self.take(id, from);
            }
            // In two groups: operations without a kernel, and arguments that no kernel takes.
            (Op::Input | Op::Pad(_) | Op::UpsampleNearest { .. } | Op::Custom(_), _) => return false,
            (
                Op::Conv2d { .. }
                | Op::Linear { .. }
                | Op::Activation(_)
                | Op::Clip
                | Op::BatchNorm { .. }
                | Op::LayerNorm { .. }
                | Op::Add
                | Op::Mul
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Slice { .. }
                | Op::ShuffleChannels { .. }
                | Op::Flatten,
                _,
            ) => return false,
        }
        true
    }

    /// Counts the reads of a node and frees the slots that have no further reader.
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
