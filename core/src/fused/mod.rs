//! The fused reconstruction step: a unit's forward and backward pass and its updates as a fixed plan over
//! preallocated buffers.
//!
//! It computes what the generic path computes through the tensor library, only faster: channels lie
//! together in memory, activation function, quantizer and drop are one pass, and the batch is processed in
//! chunks that stay in the cache. A unit is compiled when its operations and quantizers allow it
//! ([`Quantizer::kernel`](crate::quantizer::Quantizer::kernel)); the others go the generic way.

mod compile;
mod data;
mod layer;
mod learned;
pub(crate) mod shape;
mod unit;
mod weight;

pub use unit::{FusedUnit, Rates, StepLosses, StepTimes};

use crate::error::{Error, Result};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

/// Which path reconstructs a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Fused where a unit allows it.
    #[default]
    Auto,
    /// Through the tensor library, always.
    Generic,
    /// Fused; a unit that does not allow it is an error.
    Fused,
}

/// What a quantizer computes while it learns, for those that the fused step knows. Scale and zero point
/// are those of [`qparams`](crate::quantizer::Quantizer::qparams), unless they are learned.
#[derive(Debug, Clone)]
pub enum FusedKernel {
    /// Rounds to nearest and learns nothing.
    Nearest,
    /// Learns the scale as LSQ does: its gradient times `1 / sqrt(elements * qmax)`, its value at least
    /// the epsilon of f32.
    LearnedScale {
        /// The scale, one element.
        scale: Var,
    },
    /// Learns scale and zero point as LSQ+ does; the zero point is rounded straight-through and clamped to
    /// the grid.
    LearnedScaleAndZeroPoint {
        /// The scale, one element.
        scale: Var,
        /// The zero point, one element.
        zero_point: Var,
    },
    /// Learns the rounding of a weight as AdaRound does.
    SoftRounding {
        /// The rounding variables, of the weight's shape.
        alpha: Var,
        /// `floor(weight / scale)`.
        floor: Tensor,
    },
}

/// Why a unit is not fused.
fn refuse<T>(why: impl std::fmt::Display) -> Result<std::result::Result<T, String>> {
    Ok(Err(why.to_string()))
}

/// An error about a unit's buffers, which its compilation should have excluded.
fn broken(what: &str) -> Error {
    Error::message(format!("the fused step: {what}"))
}
