//! The cost of a network: operations and parameters.

use super::{Graph, NodeId};

impl Graph {
    /// Multiply-accumulate operations of a node for one image. Only convolutions and linear layers
    /// count, as in published figures.
    pub fn macs(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        let Some(input) = node.inputs.first().filter(|_| node.op.has_weight()) else { return 0 };
        let parameters = node.op.parameters(&self.node(*input).shape);
        // Each output is a sum over what a row of the weight (O, ...) holds.
        let weight = parameters.iter().find(|(name, _)| *name == "weight");
        let each = weight.map_or(0, |(_, shape)| shape[1..].iter().product());
        (node.shape.iter().product::<usize>() * each) as u64
    }

    /// Number of trained parameters. The running statistics of batch normalization do not count.
    pub fn parameter_count(&self) -> usize {
        let trained = self.parameter_shapes().into_iter().filter(|(name, _)| !name.contains(".running_"));
        trained.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
