//! Element-wise activation functions.

use crate::clip;
use crate::math::{normal_below, normal_density, sigmoid};
use crate::segments::for_each_piece;
use crate::simd::vectorize;

/// An activation function. Where it has a kink its gradient there is 0, as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * sigmoid(x)` (also called swish).
    Silu,
    /// `x * relu6(x + 3) / 6` (MobileNetV3, arXiv 1905.02244, section 5.2).
    HardSwish,
    /// `relu6(x + 3) / 6`.
    HardSigmoid,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x` times the share of a normal distribution's values below it (GELU, arXiv 1606.08415, section 2).
    Gelu,
}

#[inline(always)]
fn relu6(x: f32) -> f32 {
    clip::value(x, 6.0)
}

impl Activation {
    /// Whether `value(s * x) == s * value(x)` for every positive s.
    pub fn is_homogeneous(self) -> bool {
        match self {
            Self::Relu => true,
            Self::Relu6 | Self::Silu | Self::HardSwish | Self::HardSigmoid | Self::Sigmoid | Self::Gelu => false,
        }
    }

    /// The value at `x`.
    #[inline(always)]
    pub fn value(self, x: f32) -> f32 {
        match self {
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Relu6 => relu6(x),
            Self::Silu => x * sigmoid(x),
            Self::HardSwish => x * relu6(x + 3.0) * (1.0 / 6.0),
            Self::HardSigmoid => relu6(x + 3.0) * (1.0 / 6.0),
            Self::Sigmoid => sigmoid(x),
            Self::Gelu => x * normal_below(x),
        }
    }

    /// The derivative at `x`.
    #[inline(always)]
    pub fn derivative(self, x: f32) -> f32 {
        match self {
            Self::Relu => {
                if x > 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
            Self::Relu6 => clip::derivative(x, 6.0),
            Self::Silu => {
                let s = sigmoid(x);
                s * (1.0 + x * (1.0 - s))
            }
            Self::HardSwish => {
                let inner = (2.0 * x + 3.0) * (1.0 / 6.0);
                if x <= -3.0 {
                    0.0
                } else if x >= 3.0 {
                    1.0
                } else {
                    inner
                }
            }
            Self::HardSigmoid => {
                if (x > -3.0) & (x < 3.0) {
                    1.0 / 6.0
                } else {
                    0.0
                }
            }
            Self::Sigmoid => {
                let s = sigmoid(x);
                s * (1.0 - s)
            }
            Self::Gelu => normal_below(x) + x * normal_density(x),
        }
    }
}

/// Calls `$body` with the activation as a constant, so that the branch leaves the loop.
macro_rules! specialize {
    ($activation:expr, $constant:ident => $body:expr) => {
        match $activation {
            Activation::Relu => {
                const $constant: Activation = Activation::Relu;
                $body
            }
            Activation::Relu6 => {
                const $constant: Activation = Activation::Relu6;
                $body
            }
            Activation::Silu => {
                const $constant: Activation = Activation::Silu;
                $body
            }
            Activation::HardSwish => {
                const $constant: Activation = Activation::HardSwish;
                $body
            }
            Activation::HardSigmoid => {
                const $constant: Activation = Activation::HardSigmoid;
                $body
            }
            Activation::Sigmoid => {
                const $constant: Activation = Activation::Sigmoid;
                $body
            }
            Activation::Gelu => {
                const $constant: Activation = Activation::Gelu;
                $body
            }
        }
    };
}

/// `out = activation(x)`.
pub fn forward(activation: Activation, x: &[f32], out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        let x = &x[first..][..out.len()];
        specialize!(activation, ACTIVATION => vectorize(#[inline(always)] || {
            for (o, v) in out.iter_mut().zip(x) {
                *o = ACTIVATION.value(*v);
            }
        }));
    });
}

/// `out = grad * activation'(x)`.
pub fn backward(activation: Activation, x: &[f32], grad: &[f32], out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        let (x, grad) = (&x[first..][..out.len()], &grad[first..][..out.len()]);
        specialize!(activation, ACTIVATION => vectorize(#[inline(always)] || {
            for ((o, v), g) in out.iter_mut().zip(x).zip(grad) {
                *o = g * ACTIVATION.derivative(*v);
            }
        }));
    });
}
