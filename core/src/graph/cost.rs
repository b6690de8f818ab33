//! The cost of a network: operations and parameters.

use super::{Graph, NodeId, Op};

impl Graph {
    /// Multiply-accumulate operations of a node for one image. Only convolutions and linear layers
    /// count, as in published figures.
    pub fn macs(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        let Some(input) = node.inputs.first() else { return 0 };
        let channels = self.node(*input).shape.first().copied().unwrap_or_default();
        let outputs: usize = node.shape.iter().product();
        let each = match &node.op {
            Op::Conv2d { kernel, geometry, .. } => channels / geometry.groups * kernel[0] * kernel[1],
            Op::Linear { .. } => channels,
            Op::Input
            | Op::BatchNorm { .. }
            | Op::Activation(_)
            | Op::Add
            | Op::Mul
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Pad(_)
            | Op::Concat
            | Op::Flatten
            | Op::UpsampleNearest { .. }
            | Op::Custom(_) => 0,
        };
        (outputs * each) as u64
    }

    /// Number of trained parameters. The running statistics of batch normalization do not count.
    pub fn parameter_count(&self) -> usize {
        let trained = self.parameter_shapes().into_iter().filter(|(name, _)| !name.contains(".running_"));
        trained.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
