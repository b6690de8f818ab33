//! Blocks with gates and branches.

use qdrop_core::ops::Activation::{self, Relu, Sigmoid, Silu};
use qdrop_core::prelude::*;

/// A convolution with an activation function; `shape` is output channels, kernel and groups.
fn layer(b: &mut GraphBuilder, name: &str, x: NodeId, shape: [usize; 3], function: Activation) -> Result<NodeId> {
    let [out, kernel, groups] = shape;
    let y = b.conv2d(name, x, Conv2d::new(out, kernel).padding(kernel / 2).groups(groups).bias())?;
    b.activation(&format!("{name}.act"), y, function)
}

/// Squeeze-and-excitation (arXiv 1709.01507).
fn gate(b: &mut GraphBuilder, x: NodeId, squeezed: usize, function: Activation) -> Result<NodeId> {
    let channels = b.channels(x);
    let s = b.global_average_pool("mean", x)?;
    let s = layer(b, "squeeze", s, [squeezed, 1, 1], function)?;
    let s = layer(b, "excite", s, [channels, 1, 1], Sigmoid)?;
    b.mul("gate", x, s)
}

/// A block of RegNetY-400M (arXiv 2003.13678).
pub fn regnety(b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
    let y = layer(b, "a", x, [208, 1, 1], Relu)?;
    let y = layer(b, "b", y, [208, 3, 26], Relu)?;
    let y = gate(b, y, 52, Relu)?;
    let y = b.conv2d("c", y, Conv2d::new(208, 1).bias())?;
    let y = b.add("sum", y, x)?;
    b.relu("out", y)
}

/// A block of EfficientNet-B0 (arXiv 1905.11946).
pub fn mobile(b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
    let y = layer(b, "expand", x, [480, 1, 1], Silu)?;
    let y = layer(b, "depthwise", y, [480, 3, 480], Silu)?;
    let y = gate(b, y, 20, Silu)?;
    let y = b.conv2d("project", y, Conv2d::new(80, 1).bias())?;
    b.add("sum", y, x)
}

/// A fire module of SqueezeNet 1.1 (arXiv 1602.07360).
pub fn fire(b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
    let s = layer(b, "squeeze", x, [16, 1, 1], Relu)?;
    let one = layer(b, "expand1x1", s, [64, 1, 1], Relu)?;
    let three = layer(b, "expand3x3", s, [64, 3, 1], Relu)?;
    b.concat("both", &[one, three])
}

/// An inception module of torchvision's GoogLeNet (arXiv 1409.4842).
pub fn inception(b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
    let one = layer(b, "branch1", x, [64, 1, 1], Relu)?;
    let two = layer(b, "branch2.0", x, [96, 1, 1], Relu)?;
    let two = layer(b, "branch2.1", two, [128, 3, 1], Relu)?;
    let three = layer(b, "branch3.0", x, [16, 1, 1], Relu)?;
    let three = layer(b, "branch3.1", three, [32, 3, 1], Relu)?;
    let pooled = b.max_pool("branch4.0", x, Pool2d::new(3).stride(1).padding(1))?;
    let pooled = layer(b, "branch4.1", pooled, [32, 1, 1], Relu)?;
    b.concat("all", &[one, two, three, pooled])
}

/// A block of ShuffleNetV2 (arXiv 1807.11164).
pub fn shuffle(b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
    let left = b.slice("left", x, 0, 116)?;
    let right = b.slice("right", x, 116, 116)?;
    let y = layer(b, "branch2.0", right, [116, 1, 1], Relu)?;
    let y = b.conv2d("branch2.3", y, Conv2d::new(116, 3).padding(1).groups(116).bias())?;
    let y = layer(b, "branch2.5", y, [116, 1, 1], Relu)?;
    let all = b.concat("all", &[left, y])?;
    b.shuffle_channels("shuffled", all, 2)
}
