//! The cost of a network: operations and parameters.

use super::{Graph, NodeId};

impl Graph {
    /// Multiply-accumulate operations of a node for one image. Only convolutions and linear layers
    /// count, as in published figures.
    pub fn macs(&self, id: NodeId) -> u64 {
        // Each output is a sum over what a row of the weight (O, ...) holds.
        let each = self.weight_shape(id).map_or(0, |shape| shape[1..].iter().product());
        (self.node(id).shape.iter().product::<usize>() * each) as u64
    }

    /// The shape (O, ...) of the weight of a convolution or a linear layer; `None` for other nodes.
    pub fn weight_shape(&self, id: NodeId) -> Option<Vec<usize>> {
        let node = self.node(id);
        let input = node.inputs.first().filter(|_| node.op.has_weight())?;
        let parameters = node.op.parameters(&self.node(*input).shape);
        parameters.into_iter().find(|(name, _)| *name == "weight").map(|(_, shape)| shape)
    }

    /// Number of trained parameters. The running statistics of batch normalization do not count.
    pub fn parameter_count(&self) -> usize {
        let trained = self.parameter_shapes().into_iter().filter(|(name, _)| !name.contains(".running_"));
        trained.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
