//! Splits a unit into the parts of a chain: operations, each with the activation function and the quantizer after it.

use super::operation::Operation;
use super::refusal::{Refusal, Rejected};
use crate::error::Error;
use crate::graph::geometry::image;
use crate::graph::{Graph, NodeId, Op, Subgraph};
use crate::ops::Pool2dGeometry;
use qdrop_kernels::nhwc::pool::MOST_TAPS;
use qdrop_kernels::nhwc::stage::Function;
use qdrop_kernels::pool::Pool2dShape;
use std::collections::HashMap;

/// An operation of the chain with what follows it.
pub struct Part {
    /// The node of the operation.
    pub node: NodeId,
    /// The values that it reads: 0 is the unit's input, `i + 1` the value of part `i`.
    pub reads: Vec<usize>,
    pub operation: Operation<(), ()>,
    /// The activation function. A clip is named by its node.
    pub activation: Option<Function<NodeId>>,
    /// The node whose value all of this computes.
    pub value: NodeId,
}

/// The parts of a unit, in an order in which each reads earlier values.
pub struct Parts {
    pub input: NodeId,
    pub output: NodeId,
    pub parts: Vec<Part>,
}

/// Walks through the nodes of a unit in the order of execution.
struct Walk<'a> {
    graph: &'a Graph,
    /// Whether a node's value is quantized.
    quantized: &'a dyn Fn(NodeId) -> bool,
    parts: Vec<Part>,
    /// The values of nodes, as numbers.
    known: HashMap<NodeId, usize>,
}

impl Walk<'_> {
    fn refused(&self, id: NodeId) -> Rejected {
        Refusal::Operation { node: name(self.graph, id) }.into()
    }

    fn part(&mut self, node: NodeId, reads: Vec<usize>, operation: Operation<(), ()>, value: NodeId) {
        self.parts.push(Part { node, reads, operation, activation: None, value });
        self.known.insert(value, self.parts.len());
    }

    /// An activation function belongs to the part whose value nothing else reads, and which has none yet; otherwise it is a part
    /// of its own.
    fn activation(&mut self, id: NodeId, reads: Vec<usize>, function: Function<NodeId>) {
        let input = self.graph.node(id).inputs[0];
        let alone = self.graph.consumers(input).len() == 1 && !self.graph.outputs().contains(&input);
        let own = reads[0].checked_sub(1).filter(|_| alone && !(self.quantized)(input));
        match own.map(|own| &mut self.parts[own]).filter(|part| part.activation.is_none() && part.value == input) {
            Some(part) => {
                (part.activation, part.value) = (Some(function), id);
                self.known.remove(&input);
                self.known.insert(id, reads[0]);
            }
            None => {
                self.part(id, reads, Operation::Sum, id);
                if let Some(part) = self.parts.last_mut() {
                    part.activation = Some(function);
                }
            }
        }
    }

    fn pool(&self, id: NodeId, geometry: &Pool2dGeometry) -> Result<Pool2dShape, Rejected> {
        let node = self.graph.node(id);
        let [channels, height, width] = image(self.graph, node.inputs[0]);
        geometry.of_planes(channels, height, width).map_err(|e| Error::graph(&node.name, e.to_string()).into())
    }

    fn node(&mut self, id: NodeId) -> Result<(), Rejected> {
        let graph = self.graph;
        let node = graph.node(id);
        let reads: Option<Vec<usize>> = node.inputs.iter().map(|input| self.known.get(input).copied()).collect();
        let reads = reads.ok_or_else(|| Error::graph(&node.name, "an input of this node is not known in its unit"))?;
        let operation = match &node.op {
            Op::Conv2d { .. } | Op::Linear { .. } => Operation::Convolution(()),
            Op::Add => Operation::Sum,
            Op::Mul => {
                let [value, factor] = [0, 1].map(|i| image(graph, node.inputs[i]));
                if factor != value && factor != [value[0], 1, 1] {
                    return Err(Refusal::Factor { node: name(graph, id) }.into());
                }
                Operation::Product
            }
            Op::Activation(activation) => {
                self.activation(id, reads, Function::Activation(*activation));
                return Ok(());
            }
            Op::Clip => {
                self.activation(id, reads, Function::Clip(id));
                return Ok(());
            }
            Op::GlobalAveragePool => Operation::Mean,
            Op::MaxPool(geometry) => {
                if geometry.kernel.iter().product::<usize>() > MOST_TAPS {
                    return Err(Refusal::LargePool { node: name(graph, id) }.into());
                }
                Operation::MaxPool(self.pool(id, geometry)?)
            }
            Op::AveragePool(geometry) => Operation::AveragePool(self.pool(id, geometry)?),
            Op::Concat => Operation::Concat,
            Op::Slice { start, .. } => Operation::Slice { start: *start },
            Op::ShuffleChannels { groups } => Operation::Shuffle { groups: *groups },
            Op::BatchNorm { .. } => Operation::Affine(()),
            Op::LayerNorm { eps } => Operation::LayerNorm { affine: (), eps: *eps as f32 },
            // One pixel is flat already.
            Op::Flatten if image(graph, node.inputs[0])[1..] == [1, 1] => {
                if (self.quantized)(id) {
                    self.part(id, reads, Operation::Sum, id);
                } else {
                    self.known.insert(id, reads[0]);
                }
                return Ok(());
            }
            Op::Input | Op::Flatten | Op::Pad(_) | Op::UpsampleNearest { .. } | Op::Custom(_) => {
                return Err(self.refused(id))
            }
        };
        self.part(id, reads, operation, id);
        Ok(())
    }

    /// Whether a part is a layer that only computes what another one adds: nothing is done to its value before.
    fn is_operand(&self, part: usize, readers: &[usize]) -> bool {
        let Part { operation, activation, value, .. } = &self.parts[part];
        let layer =
            matches!(operation, Operation::Convolution(())) && activation.is_none() && !(self.quantized)(*value);
        layer && matches!(readers, [reader] if self.is_addition(*reader))
    }

    fn is_addition(&self, part: usize) -> bool {
        matches!(self.parts[part].operation, Operation::Sum) && self.parts[part].reads.len() == 2
    }

    /// The parts in the order in which a chain computes them: a layer whose value is only added comes right before the addition,
    /// the one first that reads the later value.
    fn ordered(self) -> Vec<Part> {
        let readers: Vec<Vec<usize>> = (1..=self.parts.len())
            .map(|value| {
                let reads = |part: &Part| part.reads.iter().filter(|read| **read == value).count();
                self.parts.iter().enumerate().flat_map(|(i, part)| vec![i; reads(part)]).collect()
            })
            .collect();
        let operand: Vec<bool> = (0..self.parts.len()).map(|part| self.is_operand(part, &readers[part])).collect();
        let mut order: Vec<usize> = Vec::new();
        for part in (0..self.parts.len()).filter(|part| !operand[*part]) {
            let own = self.parts[part].reads.iter().filter_map(|read| read.checked_sub(1));
            let mut own: Vec<usize> = own.filter(|read| operand[*read]).collect();
            own.sort_by_key(|read| (std::cmp::Reverse(self.parts[*read].reads[0]), *read));
            order.extend(own);
            order.push(part);
        }
        let mut place = vec![0; self.parts.len() + 1];
        order.iter().enumerate().for_each(|(i, part)| place[part + 1] = i + 1);
        let mut parts: Vec<Option<Part>> = self.parts.into_iter().map(Some).collect();
        let moved = order.iter().filter_map(|part| parts[*part].take());
        let renamed = |part: Part| Part { reads: part.reads.iter().map(|read| place[*read]).collect(), ..part };
        moved.map(renamed).collect()
    }
}

/// A node's name with its operation.
pub fn name(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    format!("'{}' ({})", node.name, node.op.name())
}

impl Parts {
    /// Splits a unit into its parts, or returns why a chain cannot compute it. `quantized` tells whether a node's value is
    /// quantized.
    pub fn of(graph: &Graph, unit: &Subgraph, quantized: &dyn Fn(NodeId) -> bool) -> Result<Self, Rejected> {
        let (&[input], &[output]) = (unit.inputs(), unit.outputs()) else {
            return Err(Refusal::Ends { inputs: unit.inputs().len(), outputs: unit.outputs().len() }.into());
        };
        let mut walk = Walk { graph, quantized, parts: Vec::new(), known: HashMap::from([(input, 0)]) };
        unit.nodes().iter().try_for_each(|id| walk.node(*id))?;
        // The output comes last, and every other value is read.
        let last = walk.parts.len();
        let read = |value: usize| walk.parts.iter().any(|part| part.reads.contains(&value));
        if last == 0 || walk.known.get(&output) != Some(&last) || !(1..last).all(read) {
            return Err(Refusal::Shape.into());
        }
        Ok(Self { input, output, parts: walk.ordered() })
    }
}
