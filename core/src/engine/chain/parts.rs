//! Splits a unit into the parts of a chain: its layers and at most one shortcut.

use super::refusal::Refusal;
use crate::graph::{Graph, NodeId, Op, Subgraph};
use qdrop_kernels::nhwc::stage::Function;

/// A node of the chain, the activation function after it, and the node whose value both compute.
pub struct Link {
    pub node: NodeId,
    /// A clip is named by its node.
    pub activation: Option<Function<NodeId>>,
    pub value: NodeId,
}

/// The parts of a unit: a chain of layers from its input, and the shortcut that is added at its end.
pub struct Parts {
    pub input: NodeId,
    pub output: NodeId,
    pub chain: Vec<Link>,
    pub end: Option<Link>,
    pub projection: Option<NodeId>,
    pub identity: bool,
}

/// Walks through the nodes of a unit.
struct Reader<'a> {
    graph: &'a Graph,
    unit: &'a Subgraph,
    output: NodeId,
}

impl Reader<'_> {
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

    /// Follows a value to the next node that is not an activation function.
    fn link(&self, node: NodeId) -> Result<(Link, Option<NodeId>), Refusal> {
        let mut link = Link { node, activation: None, value: node };
        loop {
            let next = match self.readers(link.value)[..] {
                _ if link.value == self.output => return Ok((link, None)),
                [next] => next,
                _ => return Err(Refusal::Branch { node: self.name(link.value) }),
            };
            let function = match self.graph.node(next).op {
                Op::Activation(activation) => Function::Activation(activation),
                Op::Clip => Function::Clip(next),
                _ => return Ok((link, Some(next))),
            };
            if link.activation.is_some() {
                return Ok((link, Some(next)));
            }
            (link.activation, link.value) = (Some(function), next);
        }
    }
}

impl Parts {
    /// Splits a unit into its parts, or returns why it is not a chain.
    pub fn of(graph: &Graph, unit: &Subgraph) -> Result<Self, Refusal> {
        let (&[input], &[output]) = (unit.inputs(), unit.outputs()) else {
            return Err(Refusal::Ends { inputs: unit.inputs().len(), outputs: unit.outputs().len() });
        };
        let reader = Reader { graph, unit, output };
        let mut parts = Self { input, output, chain: Vec::new(), end: None, projection: None, identity: false };
        // If several layers read the input, the chain begins with the one that does not lead straight to the
        // addition; the other one is the shortcut.
        let starts: Vec<NodeId> = reader.readers(input).into_iter().filter(|id| reader.is_layer(*id)).collect();
        let straight = |id: &NodeId| reader.readers(*id).first().is_some_and(|r| graph.node(*r).op == Op::Add);
        let start = starts.iter().find(|id| starts.len() == 1 || !straight(id)).copied();
        let mut next = Some(start.ok_or(Refusal::Start)?);
        while let Some(node) = next {
            match &graph.node(node).op {
                Op::Conv2d { .. } | Op::Linear { .. } => {
                    let (link, after) = reader.link(node)?;
                    parts.chain.push(link);
                    next = after;
                }
                Op::Add => {
                    parts.addition(&reader, node)?;
                    break;
                }
                Op::Input
                | Op::BatchNorm { .. }
                | Op::Activation(_)
                | Op::Clip
                | Op::Mul
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Pad(_)
                | Op::Concat
                | Op::Flatten
                | Op::UpsampleNearest { .. }
                | Op::Custom(_) => return Err(Refusal::Operation { node: reader.name(node) }),
            }
        }
        let of_link = |link: &Link| if link.activation.is_some() { 2 } else { 1 };
        let used: usize = parts.chain.iter().chain(&parts.end).map(of_link).sum();
        if used + usize::from(parts.projection.is_some()) != unit.nodes().len() {
            return Err(Refusal::Shape);
        }
        Ok(parts)
    }

    /// Records the addition at the unit's end and its shortcut.
    fn addition(&mut self, reader: &Reader<'_>, node: NodeId) -> Result<(), Refusal> {
        let graph = reader.graph;
        let chain = self.chain.last().map(|l| l.value);
        match graph.node(node).inputs.iter().copied().find(|i| chain != Some(*i)) {
            Some(other) if other == self.input => self.identity = true,
            Some(other) if reader.is_layer(other) && graph.node(other).inputs == [self.input] => {
                self.projection = Some(other);
            }
            _ => return Err(Refusal::Addition { node: reader.name(node) }),
        }
        let (link, after) = reader.link(node)?;
        if after.is_some() {
            return Err(Refusal::NotTheEnd { node: reader.name(node) });
        }
        self.end = Some(link);
        Ok(())
    }
}
