//! Splits a unit into the parts of a chain: its layers, and the earlier values that are added on the way.

use super::refusal::Refusal;
use crate::graph::{Graph, NodeId, Op, Subgraph};
use qdrop_kernels::nhwc::stage::Function;
use std::collections::HashMap;

/// A layer of the chain with what follows it.
pub struct Link {
    pub node: NodeId,
    /// Whether the layer reads the mean over all pixels of the value before it.
    pub reads_mean: bool,
    pub added: Option<Added>,
    /// The activation function, after the addition. A clip is named by its node.
    pub activation: Option<Function<NodeId>>,
    /// The node whose value all of this computes.
    pub value: NodeId,
}

/// What is added to a layer's output.
pub struct Added {
    /// The layer whose value it is; `None` for the unit's input.
    pub from: Option<usize>,
    /// A layer that computes what is added from that value.
    pub projection: Option<NodeId>,
}

/// The parts of a unit: layers in a row, each of which reads the value of the one before it.
pub struct Parts {
    pub input: NodeId,
    pub output: NodeId,
    pub links: Vec<Link>,
}

/// Walks through the nodes of a unit in the order of execution.
struct Walk<'a> {
    graph: &'a Graph,
    unit: &'a Subgraph,
    links: Vec<Link>,
    /// Which layer computes a value; `None` for the unit's input.
    known: HashMap<NodeId, Option<usize>>,
    /// Layers that compute what is added, and the value that they read.
    projections: HashMap<NodeId, Option<usize>>,
    /// The value that the next layer of the chain reads.
    tail: NodeId,
    /// Whether that is the mean of the last layer's value.
    mean: bool,
}

impl Walk<'_> {
    fn readers(&self, id: NodeId) -> Vec<NodeId> {
        self.graph.consumers(id).into_iter().filter(|c| self.unit.contains(*c)).collect()
    }

    fn name(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        format!("'{}' ({})", node.name, node.op.name())
    }

    fn is_layer(&self, id: NodeId) -> bool {
        self.graph.node(id).op.has_weight()
    }

    /// Whether a layer's value goes straight into an addition.
    fn is_straight(&self, layer: NodeId) -> bool {
        self.readers(layer).first().is_some_and(|r| self.graph.node(*r).op == Op::Add)
    }

    /// Whether a layer continues the chain. If several layers read its end, that one does which does not lead straight to
    /// an addition.
    fn continues(&self, layer: NodeId, input: NodeId) -> bool {
        let alone = self.readers(input).iter().filter(|id| self.is_layer(**id)).count() == 1;
        input == self.tail && (alone || !self.is_straight(layer))
    }

    fn layer(&mut self, id: NodeId, input: NodeId) -> Result<(), Refusal> {
        if self.continues(id, input) {
            let reads_mean = std::mem::take(&mut self.mean);
            self.links.push(Link { node: id, reads_mean, added: None, activation: None, value: id });
            self.end_with(id);
            return Ok(());
        }
        match self.known.get(&input) {
            Some(from) if self.is_straight(id) => {
                self.projections.insert(id, *from);
                Ok(())
            }
            Some(_) if self.links.is_empty() => Err(Refusal::Start),
            _ => Err(Refusal::Branch { node: self.name(input) }),
        }
    }

    /// The last layer's value is that of this node now.
    fn end_with(&mut self, id: NodeId) {
        let Some(last) = self.links.len().checked_sub(1) else { return };
        self.known.remove(&self.links[last].value);
        self.known.insert(id, Some(last));
        self.links[last].value = id;
        self.tail = id;
    }

    fn addition(&mut self, id: NodeId, inputs: &[NodeId]) -> Result<(), Refusal> {
        let refused = Refusal::Addition { node: self.name(id) };
        let tail = self.tail;
        let Some(other) = inputs.iter().copied().find(|input| *input != tail) else { return Err(refused) };
        let (from, projection) = match (self.known.get(&other), self.projections.get(&other)) {
            (Some(from), None) => (*from, None),
            (None, Some(from)) => (*from, Some(other)),
            _ => return Err(refused),
        };
        let last = self.links.len();
        match self.links.last_mut() {
            Some(link) if inputs.contains(&tail) && !self.mean && from.is_none_or(|from| from + 1 < last) => {
                if link.activation.is_some() || link.added.is_some() {
                    return Err(Refusal::BeforeAddition { node: self.graph.node(link.node).name.clone() });
                }
                link.added = Some(Added { from, projection });
            }
            _ => return Err(refused),
        }
        self.end_with(id);
        Ok(())
    }

    fn activation(&mut self, id: NodeId, input: NodeId, function: Function<NodeId>) -> Result<(), Refusal> {
        let refused = Refusal::Operation { node: self.name(id) };
        match self.links.last_mut() {
            Some(link) if input == self.tail && !self.mean && link.activation.is_none() => {
                link.activation = Some(function);
            }
            _ => return Err(refused),
        }
        self.end_with(id);
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<(), Refusal> {
        let node = self.graph.node(id);
        let of_tail = node.inputs.first() == Some(&self.tail);
        match (&node.op, node.inputs.as_slice()) {
            (Op::Conv2d { .. } | Op::Linear { .. }, [input]) => self.layer(id, *input),
            (Op::Add, inputs) => self.addition(id, inputs),
            (Op::Activation(activation), [input]) => self.activation(id, *input, Function::Activation(*activation)),
            (Op::Clip, [input]) => self.activation(id, *input, Function::Clip(id)),
            (Op::GlobalAveragePool, _) if of_tail && !self.mean && !self.links.is_empty() => {
                (self.mean, self.tail) = (true, id);
                Ok(())
            }
            // One pixel is flat already.
            (Op::Flatten, _) if of_tail && self.mean => {
                self.tail = id;
                Ok(())
            }
            (
                Op::Input
                | Op::Conv2d { .. }
                | Op::Linear { .. }
                | Op::BatchNorm { .. }
                | Op::Activation(_)
                | Op::Clip
                | Op::Mul
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Pad(_)
                | Op::Concat
                | Op::Slice { .. }
                | Op::ShuffleChannels { .. }
                | Op::LayerNorm { .. }
                | Op::Flatten
                | Op::UpsampleNearest { .. }
                | Op::Custom(_),
                _,
            ) => Err(Refusal::Operation { node: self.name(id) }),
        }
    }
}

impl Parts {
    /// Splits a unit into its parts, or returns why it is not a chain.
    pub fn of(graph: &Graph, unit: &Subgraph) -> Result<Self, Refusal> {
        let (&[input], &[output]) = (unit.inputs(), unit.outputs()) else {
            return Err(Refusal::Ends { inputs: unit.inputs().len(), outputs: unit.outputs().len() });
        };
        let (known, projections) = (HashMap::from([(input, None)]), HashMap::new());
        let mut walk = Walk { graph, unit, links: Vec::new(), known, projections, tail: input, mean: false };
        unit.nodes().iter().try_for_each(|id| walk.node(*id))?;
        if walk.links.is_empty() {
            return Err(Refusal::Start);
        }
        let added =
            walk.links.iter().filter(|link| link.added.as_ref().is_some_and(|a| a.projection.is_some())).count();
        if walk.tail != output || walk.mean || added != walk.projections.len() {
            return Err(Refusal::Shape);
        }
        // Inside the unit, a value is read by the next layer and by additions alone; outside, only the last one is read.
        Ok(Self { input, output, links: walk.links })
    }
}
