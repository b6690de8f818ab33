//! The description of a chain: its steps, and what their layers and stages hold.

use super::operation::Operation;
use crate::engine::variable::Variable;
use crate::grid::QuantSpec;
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Function;

/// A unit as a chain of steps.
pub struct Chain {
    /// Channels, height and width of its input.
    pub input: [usize; 3],
    /// Channels, height and width of its output.
    pub output: [usize; 3],
    /// Whether the output is an image (N, C, H, W); otherwise it is flat (N, features).
    pub output_is_image: bool,
    /// Its steps, one at least. Every value but the last one is read by a later step.
    pub steps: Vec<ChainStep>,
}

/// An operation and what comes after it.
pub struct ChainStep {
    /// The name of the operation's node, with the operation.
    pub name: String,
    /// The values that it reads: 0 is the unit's input, `i + 1` the value of step `i`.
    pub reads: Vec<usize>,
    pub operation: Operation<ChainConvolution, ChainAffine>,
    /// Channels, height and width of its value.
    pub size: [usize; 3],
    pub stage: ChainStage,
}

impl ChainStep {
    /// Whether it has something that may learn.
    pub fn learns(&self) -> bool {
        matches!(self.operation, Operation::Convolution(_)) || self.stage.quantizer.is_some()
    }
}

/// An affine function of each channel.
#[derive(Debug, Clone)]
pub struct ChainAffine {
    /// One for each channel.
    pub factors: Vec<f32>,
    /// One for each channel.
    pub offsets: Vec<f32>,
}

/// A convolution. A fully connected layer is a 1 x 1 convolution of an image of 1 x 1 pixels.
pub struct ChainConvolution {
    /// Its geometry for one image.
    pub shape: Conv2dShape,
    pub weight: ChainWeight,
    pub bias: Option<ChainBias>,
}

impl ChainConvolution {
    /// The same for this many images.
    pub fn of_batch(self, batch: usize) -> Self {
        Self { shape: Conv2dShape { batch, ..self.shape }, ..self }
    }

    /// Channels, height and width of its output.
    pub fn output(&self) -> [usize; 3] {
        [self.shape.out_channels, self.shape.out_height(), self.shape.out_width()]
    }
}

/// A weight (O, I / groups, KH, KW).
pub enum ChainWeight {
    /// A weight that is not learned.
    Fixed(Vec<f32>),
    /// A weight whose rounding is learned.
    SoftRounding(SoftRounding),
}

/// The learned rounding of a weight: `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`
/// (AdaRound, arXiv 2004.10568, equations 22 and 23).
pub struct SoftRounding {
    pub alpha: Variable,
    /// `floor(weight / scale)`, of the weight's shape.
    pub floor: Tensor,
    /// One for each output channel.
    pub scale: Vec<f32>,
    /// One for each output channel.
    pub zero_point: Vec<f32>,
    /// The variable of the scale, if it is learned too (Genie-M, arXiv 2212.04780, section 3.2): one element for each
    /// output channel, or a single one.
    pub learned_scale: Option<Variable>,
    pub qmin: f32,
    pub qmax: f32,
    /// Whether passes compute with hard roundings, and gradients with soft ones.
    pub straight_through: bool,
}

/// A bias with one element for each output channel.
pub struct ChainBias {
    pub value: Vec<f32>,
    pub learned: Option<Variable>,
}

/// An activation function and a quantizer, both optional.
pub struct ChainStage {
    /// A clip has one bound for each channel.
    pub activation: Option<Function<Vec<f32>>>,
    pub quantizer: Option<ChainQuantizer>,
    /// The site's number in the order of execution, from 1; 0 without a quantizer.
    pub site: usize,
}

impl ChainStage {
    /// Whether it leaves values as they are.
    pub fn is_empty(&self) -> bool {
        self.activation.is_none() && self.quantizer.is_none()
    }
}

/// A per-tensor quantizer that rounds to the nearest integer.
pub struct ChainQuantizer {
    pub spec: QuantSpec,
    pub scale: f32,
    pub zero_point: f32,
    pub learned_scale: Option<Variable>,
    /// The variable of the zero point, if it is learned; its gradient is the straight-through estimator's (LSQ+, arXiv
    /// 2004.09576).
    pub learned_zero_point: Option<Variable>,
}

impl Chain {
    /// Shape of the output of one sample.
    pub fn output_dims(&self) -> &[usize] {
        if self.output_is_image {
            &self.output
        } else {
            &self.output[..1]
        }
    }
}
