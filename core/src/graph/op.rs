//! The operations of a graph's nodes.

use super::CustomOperator;
use crate::ops::{Activation, Conv2dGeometry, Padding, Pool2dGeometry};
use serde::{Deserialize, Serialize};

/// An operation and its settings. The names of its parameters begin with the node's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The network's input.
    Input,
    /// Two-dimensional convolution.
    Conv2d {
        /// Output channels.
        out_channels: usize,
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Stride, padding, dilation, groups.
        geometry: Conv2dGeometry,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Fully connected layer.
    Linear {
        /// Output features.
        out_features: usize,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Batch normalization with running statistics.
    BatchNorm {
        /// Added to the variance, against a division by zero.
        eps: f64,
    },
    /// Each pixel's channels (or a flat value's features) are shifted and scaled to mean 0 and variance 1, then by learned
    /// factors and offsets of the channels (layer normalization, arXiv 1607.06450, of channels as in ConvNeXt, arXiv
    /// 2201.03545).
    LayerNorm {
        /// Added to the variance, against a division by zero.
        eps: f64,
    },
    /// Element-wise activation function.
    Activation(Activation),
    /// `min(max(x, 0), bound)` with one bound for each channel: ReLU6 of a network whose channels were scaled.
    Clip,
    /// Sum of two values of equal shape.
    Add,
    /// Product of two values, the second of which may be broadcast over height and width.
    Mul,
    /// Max pooling.
    MaxPool(Pool2dGeometry),
    /// Average pooling.
    AveragePool(Pool2dGeometry),
    /// Mean over height and width, which become 1.
    GlobalAveragePool,
    /// Zero padding of height and width.
    Pad(Padding),
    /// Concatenation along the channels.
    Concat,
    /// Some of the channels, one after the other.
    Slice {
        /// The first channel.
        start: usize,
        /// Number of channels.
        count: usize,
    },
    /// The channels as rows of `groups` groups are read column by column (ShuffleNet, arXiv 1707.01083, figure 1).
    ShuffleChannels {
        /// Number of groups.
        groups: usize,
    },
    /// Flattens all dimensions but the batch into one.
    Flatten,
    /// Enlargement by an integral factor, repeating pixels.
    UpsampleNearest {
        /// Vertical and horizontal factor.
        factor: [usize; 2],
    },
    /// An operation that a plugin defines. It has no serialized form.
    #[serde(skip)]
    Custom(CustomOperator),
}

impl Op {
    /// Whether the operation has a weight that can be quantized.
    pub fn has_weight(&self) -> bool {
        matches!(self, Self::Conv2d { .. } | Self::Linear { .. })
    }

    /// Groups of a convolution; 1 for everything else.
    pub fn groups(&self) -> usize {
        if let Self::Conv2d { geometry, .. } = self {
            geometry.groups
        } else {
            1
        }
    }

    /// Names and shapes of the parameters, given the shape of the first input.
    pub fn parameters(&self, input: &[usize]) -> Vec<(&'static str, Vec<usize>)> {
        let channels = input.first().copied().unwrap_or_default();
        match self {
            Self::Custom(operator) => operator.parameters().to_vec(),
            Self::Conv2d { out_channels, kernel, geometry, bias } => {
                let weight = vec![*out_channels, channels / geometry.groups, kernel[0], kernel[1]];
                with_bias(weight, *out_channels, *bias)
            }
            Self::Linear { out_features, bias } => with_bias(vec![*out_features, channels], *out_features, *bias),
            Self::BatchNorm { .. } => ["weight", "bias", "running_mean", "running_var"]
                .into_iter()
                .map(|name| (name, vec![channels]))
                .collect(),
            Self::LayerNorm { .. } => vec![("weight", vec![channels]), ("bias", vec![channels])],
            Self::Clip => vec![("bound", vec![channels])],
            Self::Input
            | Self::Activation(_)
            | Self::Add
            | Self::Mul
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Pad(_)
            | Self::Concat
            | Self::Slice { .. }
            | Self::ShuffleChannels { .. }
            | Self::Flatten
            | Self::UpsampleNearest { .. } => Vec::new(),
        }
    }

    /// Whether the operation combines several values and its result gets a quantizer of its own, as an addition's
    /// does.
    pub fn combines(&self) -> bool {
        match self {
            Self::Add | Self::Mul => true,
            Self::Custom(operator) => !operator.moves_only(),
            Self::Input
            | Self::Conv2d { .. }
            | Self::Linear { .. }
            | Self::BatchNorm { .. }
            | Self::LayerNorm { .. }
            | Self::Activation(_)
            | Self::Clip
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Pad(_)
            | Self::Concat
            | Self::Slice { .. }
            | Self::ShuffleChannels { .. }
            | Self::Flatten
            | Self::UpsampleNearest { .. } => false,
        }
    }

    /// Whether the operation belongs to the layer whose value it reads, as normalizations and activation functions
    /// (a clip is one) do. Then the layer is quantized after it.
    pub fn completes_layer(&self) -> bool {
        match self {
            Self::BatchNorm { .. } | Self::LayerNorm { .. } | Self::Activation(_) | Self::Clip => true,
            Self::Input
            | Self::Conv2d { .. }
            | Self::Linear { .. }
            | Self::Add
            | Self::Mul
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Pad(_)
            | Self::Concat
            | Self::Slice { .. }
            | Self::ShuffleChannels { .. }
            | Self::Flatten
            | Self::UpsampleNearest { .. }
            | Self::Custom(_) => false,
        }
    }

    /// Whether each element of the value is one of the first input's elements or zero. Then the value lies on the grid of
    /// whatever quantized that input, because every grid has a zero.
    pub fn keeps_grid(&self) -> bool {
        match self {
            Self::Activation(activation) => *activation == Activation::Relu,
            Self::MaxPool(_)
            | Self::Pad(_)
            | Self::Slice { .. }
            | Self::ShuffleChannels { .. }
            | Self::Flatten
            | Self::UpsampleNearest { .. } => true,
            // An operator of a plugin that only moves values may read several inputs.
            Self::Input
            | Self::Conv2d { .. }
            | Self::Linear { .. }
            | Self::BatchNorm { .. }
            | Self::LayerNorm { .. }
            | Self::Clip
            | Self::Add
            | Self::Mul
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Concat
            | Self::Custom(_) => false,
        }
    }

    /// The operation's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Conv2d { .. } => "conv2d",
            Self::Linear { .. } => "linear",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Activation(Activation::Relu) => "relu",
            Self::Activation(Activation::Relu6) => "relu6",
            Self::Activation(Activation::Silu) => "silu",
            Self::Activation(Activation::HardSwish) => "hard_swish",
            Self::Activation(Activation::HardSigmoid) => "hard_sigmoid",
            Self::Activation(Activation::Sigmoid) => "sigmoid",
            Self::Activation(Activation::Gelu) => "gelu",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Slice { .. } => "slice",
            Self::ShuffleChannels { .. } => "shuffle_channels",
            Self::Clip => "clip",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::MaxPool(_) => "max_pool",
            Self::AveragePool(_) => "average_pool",
            Self::GlobalAveragePool => "global_average_pool",
            Self::Pad(_) => "pad",
            Self::Concat => "concat",
            Self::Flatten => "flatten",
            Self::UpsampleNearest { .. } => "upsample_nearest",
            Self::Custom(operator) => operator.name(),
        }
    }
}

fn with_bias(weight: Vec<usize>, outputs: usize, bias: bool) -> Vec<(&'static str, Vec<usize>)> {
    let mut parameters = vec![("weight", weight)];
    if bias {
        parameters.push(("bias", vec![outputs]));
    }
    parameters
}
