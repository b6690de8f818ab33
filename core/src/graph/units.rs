//! The parts of a network that are reconstructed one after another.

use super::{Graph, NodeId, Op};

/// Consecutive nodes that are reconstructed together.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Name for reports, such as "layer1.0".
    pub name: String,
    /// Its nodes in topological order.
    pub nodes: Vec<NodeId>,
}

/// Every layer (convolution or linear, with the activation function that alone reads it) as a
/// unit of its own, as AdaRound reconstructs (arXiv 2004.10568).
pub fn layer_units(graph: &Graph) -> Vec<Unit> {
    let layers = graph.nodes().filter(|(_, n)| n.op.has_weight());
    layers
        .map(|(id, node)| {
            let mut nodes = vec![id];
            let mut last = id;
            while let [next] = graph.consumers(last)[..] {
                if !matches!(graph.node(next).op, Op::Activation(_) | Op::BatchNorm { .. }) {
                    break;
                }
                nodes.push(next);
                last = next;
            }
            Unit { name: node.name.clone(), nodes }
        })
        .collect()
}
