//! Some nodes of a graph with the values that they read from outside and the values that are read outside.

use super::{Graph, NodeId};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::{BTreeSet, HashMap, HashSet};

/// A part of a graph: some nodes, the values that they read from outside, and those of their values that are needed
/// outside.
///
/// Units of reconstruction, the segments of a calibration pass and the nodes between units are all subgraphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subgraph {
    nodes: Vec<NodeId>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

impl Graph {
    /// The subgraph of `nodes`. Its outputs are the values that other nodes read, and outputs of the network.
    pub fn subgraph(&self, nodes: impl IntoIterator<Item = NodeId>) -> Subgraph {
        let inside: BTreeSet<NodeId> = nodes.into_iter().collect();
        let mut read_outside: HashSet<NodeId> = self.outputs().iter().copied().collect();
        for (_, node) in self.nodes().filter(|(id, _)| !inside.contains(id)) {
            read_outside.extend(&node.inputs);
        }
        let outputs: Vec<NodeId> = inside.iter().copied().filter(|id| read_outside.contains(id)).collect();
        self.subgraph_with_outputs(inside, outputs)
    }

    /// The subgraph of `nodes` with the given outputs, in this order. An output that is not the value of one of the nodes is
    /// an input too, and passes through.
    pub fn subgraph_with_outputs(&self, nodes: impl IntoIterator<Item = NodeId>, outputs: Vec<NodeId>) -> Subgraph {
        let inside: BTreeSet<NodeId> = nodes.into_iter().collect();
        let read = inside.iter().flat_map(|id| &self.node(*id).inputs);
        let read: BTreeSet<NodeId> = read.chain(&outputs).copied().collect();
        let inputs = read.difference(&inside).copied().collect();
        Subgraph { nodes: inside.into_iter().collect(), inputs, outputs }
    }

    /// The whole network: from its input to its outputs.
    pub fn whole(&self) -> Subgraph {
        self.subgraph_with_outputs(self.nodes().skip(1).map(|(id, _)| id), self.outputs().to_vec())
    }

    /// The rest of the network after `part`: every node outside of it, from its first node on, that the
    /// network's outputs depend on. It reads the outputs of `part`, and earlier values that bypass `part`.
    pub fn after(&self, part: &Subgraph) -> Subgraph {
        let first = part.nodes.first().copied().unwrap_or(NodeId(0));
        let mut needed: BTreeSet<NodeId> = self.outputs().iter().copied().collect();
        let mut nodes = BTreeSet::new();
        // In reverse topological order: a node comes after all that read it.
        while let Some(id) = needed.pop_last() {
            if id > first && !part.contains(id) {
                nodes.insert(id);
                needed.extend(&self.node(id).inputs);
            }
        }
        self.subgraph_with_outputs(nodes, self.outputs().to_vec())
    }
}

impl Graph {
    /// The values of these nodes among those that were computed.
    pub(crate) fn values_of(&self, ids: &[NodeId], computed: &HashMap<NodeId, Tensor>) -> Result<Vec<Tensor>> {
        let missing = |id: &NodeId| Error::graph(&self.node(*id).name, "its value was not computed");
        ids.iter().map(|id| computed.get(id).cloned().ok_or_else(|| missing(id))).collect()
    }
}

impl Subgraph {
    /// Its nodes in topological order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The values from outside that the nodes read, in topological order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The values that are needed outside.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Whether a node belongs to the subgraph.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.binary_search(&node).is_ok()
    }

    /// Computes the outputs from the inputs (N, ...), both in the subgraph's order. Images may have another height and width than
    /// the graph says, if the operations can take them. `compute` returns the value of one
    /// node for the values of its inputs. A value is freed after its last reader.
    ///
    /// # Errors
    /// The number or the shape of the inputs is wrong, or `compute` fails.
    pub fn run(
        &self,
        graph: &Graph,
        inputs: &[Tensor],
        mut compute: impl FnMut(NodeId, &[&Tensor]) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let shapes: Vec<&[usize]> = inputs.iter().map(Tensor::dims).collect();
        self.check_channels(graph, &shapes)?;
        let mut last_reader: HashMap<NodeId, NodeId> = HashMap::new();
        for id in &self.nodes {
            last_reader.extend(graph.node(*id).inputs.iter().map(|input| (*input, *id)));
        }
        let mut values: HashMap<NodeId, Tensor> = self.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
        for id in &self.nodes {
            let node = graph.node(*id);
            let read: Vec<&Tensor> = node.inputs.iter().filter_map(|input| values.get(input)).collect();
            if read.len() != node.inputs.len() {
                return Err(Error::graph(&node.name, "an input of this node was not computed"));
            }
            let value = compute(*id, &read)?;
            for input in &node.inputs {
                if last_reader.get(input) == Some(id) && !self.outputs.contains(input) {
                    values.remove(input);
                }
            }
            values.insert(*id, value);
        }
        graph.values_of(&self.outputs, &values)
    }

    /// Checks the number of the values for the inputs, and their shapes (N, ...), but for the sizes of images.
    fn check_channels(&self, graph: &Graph, shapes: &[&[usize]]) -> Result<()> {
        let wanted =
            self.inputs.iter().zip(shapes).map(|(id, given)| match (graph.node(*id).shape.as_slice(), given) {
                ([channels, _, _], [_, _, height, width]) => vec![*channels, *height, *width],
                (shape, _) => shape.to_vec(),
            });
        let wanted: Vec<Vec<usize>> = wanted.collect();
        self.check_shapes(graph, shapes, wanted.iter().map(Vec::as_slice)).map(|_| ())
    }

    /// Checks the number and shapes (N, ...) of the values for the inputs. Returns the batch size N.
    pub(crate) fn check_inputs<'a>(&self, graph: &Graph, shapes: impl Iterator<Item = &'a [usize]>) -> Result<usize> {
        let shapes: Vec<&[usize]> = shapes.collect();
        self.check_shapes(graph, &shapes, self.inputs.iter().map(|id| graph.node(*id).shape.as_slice()))
    }

    fn check_shapes<'a>(
        &self,
        graph: &Graph,
        shapes: &[&[usize]],
        wanted: impl Iterator<Item = &'a [usize]>,
    ) -> Result<usize> {
        if shapes.len() != self.inputs.len() {
            let names: Vec<&str> = self.inputs.iter().map(|id| graph.node(*id).name.as_str()).collect();
            return Err(Error::message(format!("{} values were given for the inputs {names:?}", shapes.len())));
        }
        let batch = shapes.first().and_then(|dims| dims.first()).copied().unwrap_or_default();
        for ((id, dims), wanted) in self.inputs.iter().zip(shapes).zip(wanted) {
            let want = [&[batch], wanted].concat();
            if *dims != want {
                return Err(Error::graph(
                    &graph.node(*id).name,
                    format!("has the shape {dims:?} where {want:?} is expected"),
                ));
            }
        }
        Ok(batch)
    }
}
