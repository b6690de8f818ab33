//! The graph of a network: plain data. Batch-norm folding, quantizer placement, reports and execution
//! all read it.

mod blocks;
mod builder;
mod channels;
mod cost;
mod execute;
mod fold;
pub(crate) mod geometry;
mod json;
mod op;
mod operator;
mod shape;
mod sites;
mod subgraph;
mod units;

pub use blocks::find_units;
pub use builder::{Conv2d, GraphBuilder, Pool2d};
pub use channels::{channel_groups, channel_read, ChannelGroup};
pub(crate) use execute::affine;
pub use execute::{execute, Replaced};
pub use fold::fold_batch_norm;
pub(crate) use fold::folded_batch_norms;
pub use op::Op;
pub use operator::{CustomOperator, Operator};
pub use sites::{quantization_sites, Site, SiteKind};
pub use subgraph::Subgraph;
pub use units::{layer_units, merge_units, network_unit, unit_costs, Unit};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Index of a node; also names the value that the node computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Position in the graph's topological order.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name. A node with parameters owns `<name>.weight`, `<name>.bias` and so on.
    pub name: String,
    /// The operation.
    pub op: Op,
    /// The values that it reads.
    pub inputs: Vec<NodeId>,
    /// Shape of its value without the batch dimension: (C, H, W) or (features).
    pub shape: Vec<usize>,
    /// Whether its value, or that of the layer that it begins, has a quantizer.
    pub placement: Placement,
}

/// Whether the value of a node has a quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// As the network's [sites](quantization_sites) say.
    #[default]
    ByRule,
    /// It has one, whatever reads it.
    Always,
    /// It has none.
    Never,
}

/// What the network's input and outputs are called outside, such as in an ONNX file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// Name of the input.
    pub input: String,
    /// Names of the outputs, in their order.
    pub outputs: Vec<String>,
}

impl Ends {
    /// `input` and `output`, or `output0`, `output1` and so on.
    fn usual(outputs: usize) -> Self {
        let name = |i: usize| if outputs == 1 { "output".into() } else { format!("output{i}") };
        Self { input: "input".into(), outputs: (0..outputs).map(name).collect() }
    }
}

/// A network: nodes in topological order, divided into the units of block reconstruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    ends: Ends,
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
    units: Vec<Unit>,
    any_size: bool,
}

impl Graph {
    /// Checks and assembles a graph. `units` are pairs of a name and nodes.
    ///
    /// # Errors
    /// There is no output; a unit reads no value from outside, or nothing outside reads a value of it.
    pub(crate) fn new(nodes: Vec<Node>, outputs: Vec<NodeId>, units: Vec<(String, Vec<NodeId>)>) -> Result<Self> {
        if outputs.is_empty() {
            return Err(Error::message("a network needs at least one output"));
        }
        let mut graph = Self { ends: Ends::usual(outputs.len()), nodes, outputs, units: Vec::new(), any_size: false };
        let cut = |(name, nodes)| Unit::new(&graph, name, nodes);
        graph.units = units.into_iter().map(cut).collect::<Result<_>>()?;
        Ok(graph)
    }

    /// All nodes in topological order.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// The network's input.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of the input without the batch dimension.
    pub fn input_shape(&self) -> &[usize] {
        &self.nodes[0].shape
    }

    /// Whether images may have any height and width that the operations can take. Shapes of nodes are then those for images of
    /// a usual size.
    pub fn any_size(&self) -> bool {
        self.any_size
    }

    /// The same graph for images [of any size](Self::any_size), or for those of its input's size alone.
    pub fn with_any_size(self, any_size: bool) -> Self {
        Self { any_size, ..self }
    }

    /// The network for images that are large enough to check that it works: for images [of any size](Self::any_size) much smaller
    /// ones than usual.
    ///
    /// # Errors
    /// An operation cannot take values of that size.
    pub fn for_checks(&self) -> Result<Self> {
        if !self.any_size {
            return Ok(self.clone());
        }
        let small = |(axis, size): (usize, &usize)| match axis {
            0 => *size,
            _ => (size / 8).next_multiple_of(32).max(64).min(*size),
        };
        let shape: Vec<usize> = self.input_shape().iter().enumerate().map(small).collect();
        self.reshaped(&self.whole(), &[&shape])
    }

    /// What the input and the outputs are called outside: `input` and `output` unless they were [named](Self::named).
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// The same graph with these names of its input and outputs.
    ///
    /// # Errors
    /// The number of names is not that of the outputs.
    pub fn named(self, ends: Ends) -> Result<Self> {
        if ends.outputs.len() != self.outputs.len() {
            let message = format!("{} names were given for {} outputs", ends.outputs.len(), self.outputs.len());
            return Err(Error::message(message));
        }
        Ok(Self { ends, ..self })
    }

    /// The network's outputs; a classifier has one, its logits.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// The units of block reconstruction in the order of execution.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Nodes that read the value of `id`.
    pub fn consumers(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes().filter(|(_, n)| n.inputs.contains(&id)).map(|(i, _)| i).collect()
    }

    /// The normalizations and activation functions that [complete](Op::completes_layer) a node, one after the other: each is the
    /// only reader of the one before it.
    pub fn completion(&self, head: NodeId) -> Vec<NodeId> {
        let next = |id: NodeId| match self.consumers(id)[..] {
            [next] if self.node(next).op.completes_layer() => Some(next),
            _ => None,
        };
        std::iter::successors(next(head), |id| next(*id)).collect()
    }

    /// Names and shapes of all parameters, including the running statistics of batch normalization.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = Vec::new();
        for node in &self.nodes {
            let input = node.inputs.first().map(|i| self.node(*i).shape.as_slice());
            for (name, shape) in node.op.parameters(input.unwrap_or_default()) {
                shapes.push((format!("{}.{name}", node.name), shape));
            }
        }
        shapes
    }

    /// The same network where the inputs of a part have other shapes, in the part's order: the values of its nodes get theirs.
    /// Nodes, parameters and units stay.
    ///
    /// # Errors
    /// An operation cannot take values of the new shapes, or its parameters would have other shapes.
    pub fn reshaped(&self, part: &Subgraph, inputs: &[&[usize]]) -> Result<Self> {
        let mut graph = self.clone();
        for (id, shape) in part.inputs().iter().zip(inputs) {
            graph.nodes[id.0].shape = shape.to_vec();
        }
        for id in part.nodes() {
            let old = self.node(*id);
            let shapes = |graph: &Self| old.inputs.iter().map(|i| graph.node(*i).shape.clone()).collect::<Vec<_>>();
            let (own, new) = (shapes(self), shapes(&graph));
            let new: Vec<&[usize]> = new.iter().map(Vec::as_slice).collect();
            let sized = || -> Result<(Op, Vec<usize>)> {
                let op = match &old.op {
                    Op::Custom(operator) => Op::Custom(operator.of_shapes(&new)?),
                    other => other.clone(),
                };
                let shape = op.shape(&new)?;
                let first = |shapes: &[&[usize]]| shapes.first().copied().unwrap_or_default().to_vec();
                let own: Vec<&[usize]> = own.iter().map(Vec::as_slice).collect();
                if op.parameters(&first(&new)) != old.op.parameters(&first(&own)) {
                    return Err(Error::message("its parameters have other shapes for images of another size"));
                }
                Ok((op, shape))
            };
            let (op, shape) = sized().map_err(|e| Error::graph(&old.name, e))?;
            let node = &mut graph.nodes[id.0];
            (node.op, node.shape) = (op, shape);
        }
        Ok(graph)
    }

    /// Replaces the operation of a node. The shape of its value must not change.
    pub(crate) fn set_op(&mut self, id: NodeId, op: Op) {
        self.nodes[id.0].op = op;
    }

    /// Takes the graph apart: names of its ends, nodes, outputs, and the units as pairs of a name and nodes.
    pub(crate) fn into_parts(self) -> (Ends, Vec<Node>, Vec<NodeId>, Vec<NamedNodes>) {
        let units = self.units.into_iter().map(|u| (u.name, u.subgraph.nodes().to_vec()));
        (self.ends, self.nodes, self.outputs, units.collect())
    }
}

/// A unit's name and its nodes.
type NamedNodes = (String, Vec<NodeId>);

#[cfg(test)]
mod tests;
