//! What a forward pass computes for a fixed number of images, one instruction after the other, on whatever device.

use crate::graph::NodeId;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Stage;
use qdrop_kernels::nhwc::{Layout, Steps};
use qdrop_kernels::pool::Pool2dShape;

/// Index of a buffer.
pub type Slot = usize;

/// One instruction of the plan.
pub enum Instruction {
    /// Converts an input of the pass from planes to channels-last.
    Read {
        input: usize,
        to: Slot,
    },
    /// Computes a convolution or a fully connected layer.
    Convolve {
        node: NodeId,
        shape: Conv2dShape,
        from: Slot,
        to: Slot,
    },
    /// Divides values by the scale of the layer that reads them, in place.
    ToSteps {
        node: NodeId,
        part: Steps,
        slot: Slot,
    },
    /// Turns a layer's sums of integers into values, in place.
    FromSums {
        node: NodeId,
        slot: Slot,
        /// The sums of the rest that the integers left.
        rest: Option<Slot>,
    },
    /// Adds a shortcut, applies an activation function and a quantizer, in place. Each is optional.
    Stage {
        /// A clip is named by its node.
        stage: Stage<NodeId>,
        shortcut: Option<Slot>,
        slot: Slot,
    },
    Copy {
        from: Slot,
        to: Slot,
    },
    MaxPool {
        shape: Pool2dShape,
        from: Slot,
        to: Slot,
    },
    AveragePool {
        shape: Pool2dShape,
        from: Slot,
        to: Slot,
    },
    /// Multiplies by a value of equal size, or by one pixel.
    Multiply {
        x: Slot,
        factor: Slot,
        to: Slot,
    },
    /// Puts values one after the other along the channels.
    Concat {
        from: Vec<Slot>,
        to: Slot,
    },
    /// Takes channels from `start` on.
    Slice {
        start: usize,
        from: Slot,
        to: Slot,
    },
    /// Shuffles channels.
    Shuffle {
        groups: usize,
        from: Slot,
        to: Slot,
    },
    /// Computes batch normalization that is not folded.
    Affine {
        node: NodeId,
        from: Slot,
        to: Slot,
    },
    /// Computes layer normalization.
    LayerNorm {
        node: NodeId,
        eps: f32,
        from: Slot,
        to: Slot,
    },
    /// Computes the mean over all pixels.
    Mean {
        from: Slot,
        to: Slot,
    },
    /// Computes a node and its quantizer with candle.
    Node {
        node: NodeId,
        from: Vec<Slot>,
        to: Slot,
    },
    /// Applies a node's quantizer with candle, in place.
    Quantize {
        node: NodeId,
        slot: Slot,
    },
    /// Copies a value to an output of the pass.
    Write {
        slot: Slot,
        output: usize,
    },
}

/// All instructions, and the layouts of the buffers that they share.
pub struct Program {
    pub instructions: Vec<Instruction>,
    pub layouts: Vec<Layout>,
}
