//! The explicit graph of a network: plain data that batch-norm folding, quantizer placement,
//! reports and execution all read.

mod builder;
mod cost;
mod execute;
mod fold;
mod op;
mod operator;
mod sites;
mod units;

pub use builder::{Conv2d, GraphBuilder, Pool2d};
pub use execute::execute;
pub use fold::fold_batch_norm;
pub use op::Op;
pub use operator::{CustomOperator, Operator};
pub use sites::{quantization_sites, Site, SiteKind};
pub use units::{layer_units, Unit};

use crate::error::{Error, Result};

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
    /// What it computes.
    pub op: Op,
    /// The values that it reads.
    pub inputs: Vec<NodeId>,
    /// Shape of its value without the batch dimension: (C, H, W) or (features).
    pub shape: Vec<usize>,
}

/// A network: nodes in topological order, divided into the units of block reconstruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    output: NodeId,
    units: Vec<Unit>,
}

impl Graph {
    /// Checks and assembles a graph.
    ///
    /// # Errors
    /// A unit has no single input and output.
    pub(crate) fn new(nodes: Vec<Node>, output: NodeId, units: Vec<Unit>) -> Result<Self> {
        let graph = Self { nodes, output, units };
        for unit in &graph.units {
            graph.unit_input(unit)?;
            graph.unit_output(unit)?;
        }
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

    /// The network's output.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Number of classes: the features of the output.
    pub fn classes(&self) -> usize {
        self.node(self.output).shape.iter().product()
    }

    /// The units of block reconstruction in network order.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Nodes that read the value of `id`.
    pub fn consumers(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes().filter(|(_, n)| n.inputs.contains(&id)).map(|(i, _)| i).collect()
    }

    /// Names and shapes of all parameters, buffers of batch normalization included.
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

    /// The one value from outside that the nodes of `unit` read.
    ///
    /// # Errors
    /// The unit reads none or several.
    pub fn unit_input(&self, unit: &Unit) -> Result<NodeId> {
        let mut outside: Vec<NodeId> = unit
            .nodes
            .iter()
            .flat_map(|n| &self.node(*n).inputs)
            .filter(|i| !unit.nodes.contains(i))
            .copied()
            .collect();
        outside.sort_unstable();
        outside.dedup();
        match outside.as_slice() {
            [one] => Ok(*one),
            many => {
                let names: Vec<_> = many.iter().map(|i| self.node(*i).name.as_str()).collect();
                Err(Error::graph(&unit.name, format!("a unit reads one value from outside, this one reads {names:?}")))
            }
        }
    }

    /// The one value of `unit` that is read outside of it (or is the network's output).
    ///
    /// # Errors
    /// The unit has none or several.
    pub fn unit_output(&self, unit: &Unit) -> Result<NodeId> {
        let read_outside =
            |id: &NodeId| *id == self.output || self.consumers(*id).iter().any(|c| !unit.nodes.contains(c));
        let outputs: Vec<NodeId> = unit.nodes.iter().copied().filter(read_outside).collect();
        match outputs.as_slice() {
            [one] => Ok(*one),
            many => {
                let names: Vec<_> = many.iter().map(|i| self.node(*i).name.as_str()).collect();
                Err(Error::graph(&unit.name, format!("a unit has one output, this one has {names:?}")))
            }
        }
    }

    pub(crate) fn into_parts(self) -> (Vec<Node>, NodeId, Vec<Unit>) {
        (self.nodes, self.output, self.units)
    }
}

#[cfg(test)]
mod tests;
