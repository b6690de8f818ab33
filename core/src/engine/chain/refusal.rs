//! Why a unit has no fused step.

use crate::error::Error;

/// Why a unit is not a chain that fused engines compute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The model does not lie on a device that a fused engine computes on.
    #[error("the fused step runs on the CPU")]
    Device,
    /// A chain begins with one value and ends with one.
    #[error("it reads {inputs} values and has {outputs} outputs, a chain has one of each")]
    Ends {
        /// Values that the unit reads.
        inputs: usize,
        /// Values of it that are read outside.
        outputs: usize,
    },
    /// The first layers cannot be told apart from the shortcut.
    #[error("no layer reads its input alone")]
    Start,
    /// A value branches inside the unit.
    #[error("the value of {node} is read more than once")]
    Branch {
        /// The node, with its operation.
        node: String,
    },
    /// A shortcut that comes from elsewhere.
    #[error("{node} adds something else than the input or a layer of it")]
    Addition {
        /// The addition.
        node: String,
    },
    /// Something follows an addition.
    #[error("{node} is not the end")]
    NotTheEnd {
        /// The addition.
        node: String,
    },
    /// An operation that is no layer, addition or activation function.
    #[error("{node} has no fused form")]
    Operation {
        /// The node, with its operation.
        node: String,
    },
    /// Nodes that are neither of the chain nor of its shortcut.
    #[error("it is no chain of layers with a shortcut")]
    Shape,
    /// A kernel that the convolutions do not know.
    #[error("the kernel of '{node}' is larger than 7 x 7")]
    LargeKernel {
        /// The convolution.
        node: String,
    },
    /// A quantizer between the last layer, or the shortcut's, and the addition.
    #[error("'{node}' is quantized before the addition")]
    BeforeAddition {
        /// The layer.
        node: String,
    },
    /// A weight's quantizer does not say what it computes, or the engines do not know it.
    #[error("the quantizer of the weight of '{node}' has no fused form")]
    WeightQuantizer {
        /// The layer.
        node: String,
    },
    /// A weight whose scales do not belong to its output channels.
    #[error("the weight of '{node}' is quantized along another axis than its outputs")]
    WeightAxis {
        /// The layer.
        node: String,
    },
    /// An activation's quantizer does not say what it computes, or the engines do not know it.
    #[error("the quantizer of the activation of '{node}' has no fused form")]
    ActivationQuantizer {
        /// The site.
        node: String,
    },
    /// An activation with a scale for each channel.
    #[error("the activation of '{node}' is quantized channel by channel")]
    ActivationPerChannel {
        /// The site.
        node: String,
    },
    /// A quantizer learns something that its kernel does not name.
    #[error("'{parameter}' is learned, but the kernel that its quantizer names does not learn it")]
    UnknownParameter {
        /// The parameter's name in the unit.
        parameter: String,
    },
}

/// Why a chain could not be made: the unit is not one, or something failed.
#[derive(Debug)]
pub enum Rejected {
    /// The unit is computed otherwise.
    Refused(Refusal),
    /// An error that ends the run.
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
