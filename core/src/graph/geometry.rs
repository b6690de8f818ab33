//! The convolutions of a graph as the kernels describe them.

use super::{Graph, NodeId, Op};
use qdrop_kernels::conv::{Conv2dShape, Padding};

/// Channels, height and width of a node's value.
pub fn image(graph: &Graph, id: NodeId) -> [usize; 3] {
    match *graph.node(id).shape.as_slice() {
        [c, h, w] => [c, h, w],
        ref flat => [flat.iter().product(), 1, 1],
    }
}

/// A layer as a convolution, if the kernels can compute it. A fully connected layer is a 1 x 1 convolution.
pub fn convolution(graph: &Graph, id: NodeId, batch: usize) -> Option<Conv2dShape> {
    let node = graph.node(id);
    let [in_channels, in_height, in_width] = image(graph, *node.inputs.first()?);
    let shape = Conv2dShape {
        batch,
        in_channels,
        in_height,
        in_width,
        out_channels: image(graph, id)[0],
        kernel: [1, 1],
        stride: [1, 1],
        padding: Padding::default(),
        dilation: [1, 1],
        groups: 1,
    };
    match &node.op {
        Op::Linear { .. } => Some(shape),
        Op::Conv2d { kernel, geometry, .. } => {
            let shape = Conv2dShape {
                kernel: *kernel,
                stride: geometry.stride,
                padding: geometry.padding,
                dilation: geometry.dilation,
                groups: geometry.groups,
                ..shape
            };
            (kernel[0] <= 7 && kernel[1] <= 7).then_some(shape)
        }
        Op::Input
        | Op::BatchNorm { .. }
        | Op::Activation(_)
        | Op::Clip
        | Op::Add
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
        | Op::Custom(_) => None,
    }
}

/// Width of the zero border that a convolution reads as its padding.
pub fn border(shape: &Conv2dShape) -> usize {
    let p = shape.padding;
    p.top.max(p.bottom).max(p.left).max(p.right)
}
