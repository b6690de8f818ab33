//! Why a fused engine cannot compute a unit.

use crate::error::Error;

/// Why a fused engine cannot compute a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The model is on a device that no fused engine computes on.
    #[error("the fused engine runs on the CPU and on CUDA devices only")]
    Device,
    /// The unit has several inputs or outputs.
    #[error("the unit has {inputs} inputs and {outputs} outputs, but the fused engine takes one of each")]
    Ends {
        /// Values that the unit reads from outside.
        inputs: usize,
        /// Values of the unit that are read outside.
        outputs: usize,
    },
    /// A product with a factor of other sizes than the kernels multiply by.
    #[error("{node} multiplies by neither a value of equal size nor one factor for each channel")]
    Factor {
        /// The product, with its operation.
        node: String,
    },
    /// A max pooling whose windows are larger than its kernel supports.
    #[error("{node} has windows of more than 256 pixels")]
    LargePool {
        /// The pooling, with its operation.
        node: String,
    },
    /// The GPU's engine takes layers in a row, with one addition at the end.
    #[error("the fused engine of a GPU computes one row of layers with one shortcut, from its input to its end")]
    Blocks,
    /// An operation for which the GPU's engine has no kernel.
    #[error("{node} is an operation that the fused engine of a GPU does not support")]
    DeviceOperation {
        /// The node, with its operation.
        node: String,
    },
    /// Images differ in size, and the GPU's engine has buffers for one size.
    #[error("the fused engine of a GPU takes images of one size")]
    Sizes,
    /// A step of several batches.
    #[error("the fused engine of a GPU computes one batch in a step")]
    Passes,
    /// An operation without kernels for its gradient.
    #[error("{node} is an operation that the fused engine does not support")]
    Operation {
        /// The node, with its operation.
        node: String,
    },
    /// The unit has no operation, its output is one of its inputs, or nothing reads one of its values.
    #[error("nothing reads one of the unit's values, or the unit computes nothing")]
    Shape,
    /// Units of a part of the network that each need a value of the other.
    #[error("its units read values of each other, so none can be computed before the other")]
    Interleaved,
    /// A kernel larger than the convolution kernels support.
    #[error("the kernel of '{node}' is larger than 7 x 7")]
    LargeKernel {
        /// The convolution.
        node: String,
    },
    /// The addition at the end of the unit reads a value with an activation function or a quantizer, which the GPU's engine does not.
    #[error("{node} is activated or quantized before it is added, which the fused engine of a GPU does not support")]
    BeforeAddition {
        /// The layer, with its operation.
        node: String,
    },
    /// The weight's quantizer does not describe its computation, or describes one that the engine does not know.
    #[error("the fused engine does not support the quantizer of the weight of '{node}'")]
    WeightQuantizer {
        /// The layer.
        node: String,
    },
    /// The learning rate of a weight's rounding variables is relative to a [size](crate::quantizer::Parameter::size).
    #[error("the learning rate of the roundings of '{node}' is relative, which the fused engine does not support")]
    RelativeRounding {
        /// The layer.
        node: String,
    },
    /// A weight whose scales are not those of its output channels.
    #[error("the weight of '{node}' is quantized along another axis than its output channels")]
    WeightAxis {
        /// The layer.
        node: String,
    },
    /// The activation's quantizer does not describe its computation, or describes one that the engine does not know.
    #[error("the fused engine does not support the quantizer of the activation of '{node}'")]
    ActivationQuantizer {
        /// The site.
        node: String,
    },
    /// A per-channel quantizer of an activation.
    #[error("the activation of '{node}' is quantized per channel, but the fused engine supports only per-tensor")]
    ActivationPerChannel {
        /// The site.
        node: String,
    },
    /// The reconstructor mixes quantized and float values with random weights.
    #[error(
        "quantized and float values are mixed with random weights, which the fused engine of a GPU does not support"
    )]
    Mixing,
    /// A quantizer learns a parameter that its kernel does not include.
    #[error("'{parameter}' is learned, but it is not part of what the quantizer says that it computes")]
    UnknownParameter {
        /// The parameter's name in the unit.
        parameter: String,
    },
}

/// Why there is no chain: the unit is not one, or an operation failed.
#[derive(Debug)]
pub enum Rejected {
    /// The unit is not a chain; the generic engine can compute it.
    Refused(Refusal),
    /// An operation failed; the run ends.
    Failed(Error),
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Rejected {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<candle_core::Error> for Rejected {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.into())
    }
}
