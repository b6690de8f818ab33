//! A graph as text.

use super::{Ends, Graph, GraphBuilder, NodeId, Op, Placement};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A graph as it is written. Shapes are not: they are computed, and so checked, when it is read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    ends: Ends,
    /// Channels, height and width.
    input: [usize; 3],
    /// All nodes but the input, in topological order.
    nodes: Vec<WrittenNode>,
    /// Numbers of the nodes, counted from the input, which is 0.
    outputs: Vec<usize>,
    units: Vec<(String, Vec<usize>)>,
    /// Whether images may have another height and width.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    any_size: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    name: String,
    op: Op,
    inputs: Vec<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    placement: Placement,
}

fn is_default(placement: &Placement) -> bool {
    *placement == Placement::default()
}

impl Graph {
    /// The graph as JSON; `None` if it has an operator of a plugin, which is code.
    ///
    /// # Errors
    /// The input is not an image.
    pub fn to_json(&self) -> Result<Option<String>> {
        if self.nodes().any(|(_, node)| matches!(node.op, Op::Custom(_))) {
            return Ok(None);
        }
        let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.index()).collect::<Vec<_>>();
        let node = |(_, node): (NodeId, &super::Node)| WrittenNode {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs: numbers(&node.inputs),
            placement: node.placement,
        };
        let written = Written {
            ends: self.ends().clone(),
            input: self.input_shape().try_into().map_err(|_| Error::graph("input", "is not an image"))?,
            nodes: self.nodes().skip(1).map(node).collect(),
            outputs: numbers(self.outputs()),
            units: self.units().iter().map(|unit| (unit.name.clone(), numbers(unit.nodes()))).collect(),
            any_size: self.any_size(),
        };
        serde_json::to_string(&written).map(Some).map_err(Error::message)
    }

    /// Reads what [`to_json`](Self::to_json) wrote. Everything is checked as when an architecture builds its graph.
    ///
    /// # Errors
    /// The text is not such a graph, or the graph is not one that can be computed.
    pub fn from_json(text: &str) -> Result<Self> {
        let written: Written = serde_json::from_str(text).map_err(Error::message)?;
        if written.input.contains(&0) || written.input.iter().try_fold(1_usize, |p, n| p.checked_mul(*n)).is_none() {
            return Err(Error::graph("input", format!("an image of {:?} cannot be", written.input)));
        }
        let mut b = GraphBuilder::new(written.input);
        for node in written.nodes {
            let inputs: Vec<NodeId> = node.inputs.into_iter().map(NodeId).collect();
            let id = b.node(&node.name, node.op, &inputs)?;
            b.place(id, node.placement);
        }
        let count = b.len();
        let ids = |numbers: Vec<usize>, of: &str| -> Result<Vec<NodeId>> {
            match numbers.iter().find(|n| **n >= count) {
                Some(n) => Err(Error::graph(of, format!("there is no node {n}"))),
                None => Ok(numbers.into_iter().map(NodeId).collect()),
            }
        };
        for (name, nodes) in written.units {
            let nodes = ids(nodes, &name)?;
            b.unit_of(&name, nodes);
        }
        let graph = b.finish_with_outputs(&ids(written.outputs, "outputs")?)?.named(written.ends)?;
        Ok(graph.with_any_size(written.any_size))
    }
}
