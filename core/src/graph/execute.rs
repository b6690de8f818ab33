//! The value of one node, in floating point.

use super::{Node, Op};
use crate::error::{Error, Result, TensorContext};
use crate::ops;
use candle_core::Tensor;
use std::collections::HashMap;

/// What takes the place of a node's own parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replaced<'a> {
    /// Another weight, for instance the quantized one.
    pub weight: Option<&'a Tensor>,
    /// Another bias.
    pub bias: Option<&'a Tensor>,
}

/// Computes a node's value from its inputs, with some of its parameters replaced.
///
/// # Errors
/// A parameter is missing, shapes do not fit each other, or an operation of candle fails.
pub fn execute(
    node: &Node,
    inputs: &[&Tensor],
    parameters: &HashMap<String, Tensor>,
    replaced: Replaced<'_>,
) -> Result<Tensor> {
    let parameter = |name: &str| {
        let key = format!("{}.{name}", node.name);
        parameters.get(&key).ok_or_else(|| Error::graph(&node.name, format!("has no parameter '{key}'")))
    };
    let input = |i: usize| {
        inputs.get(i).copied().ok_or_else(|| Error::graph(&node.name, format!("{} needs more inputs", node.op.name())))
    };
    let weight = || replaced.weight.map_or_else(|| parameter("weight"), Ok);
    let own_bias = |there: bool| there.then(|| replaced.bias.map_or_else(|| parameter("bias"), Ok)).transpose();
    let doing = || format!("computing {} '{}'", node.op.name(), node.name);
    match &node.op {
        Op::Input => Err(Error::graph(&node.name, "the network's input has no value")),
        Op::Conv2d { geometry, bias, .. } => {
            ops::conv2d(input(0)?, weight()?, own_bias(*bias)?, geometry).doing(doing())
        }
        Op::Linear { bias, .. } => ops::linear(input(0)?, weight()?, own_bias(*bias)?).doing(doing()),
        Op::BatchNorm { .. } => {
            let ([factor, offset], x) = (affine(node, parameters)?, input(0)?);
            let column = |t: &Tensor| ops::along_channels(t, x.rank());
            let run = || x.broadcast_mul(&column(&factor)?)?.broadcast_add(&column(&offset)?);
            run().doing(doing())
        }
        Op::LayerNorm { eps } => {
            ops::layer_norm(input(0)?, parameter("weight")?, parameter("bias")?, *eps).doing(doing())
        }
        Op::Activation(activation) => ops::activation(input(0)?, *activation).doing(doing()),
        Op::Clip => ops::clip(input(0)?, parameter("bound")?).doing(doing()),
        Op::Add => input(0)?.add(input(1)?).doing(doing()),
        Op::Mul => input(0)?.broadcast_mul(input(1)?).doing(doing()),
        Op::MaxPool(geometry) => ops::max_pool2d(input(0)?, geometry).doing(doing()),
        Op::AveragePool(geometry) => ops::average_pool2d(input(0)?, geometry).doing(doing()),
        Op::GlobalAveragePool => ops::global_average_pool(input(0)?).doing(doing()),
        Op::Pad(padding) => ops::pad2d(input(0)?, *padding).doing(doing()),
        Op::Concat => Tensor::cat(inputs, 1).doing(doing()),
        Op::Slice { start, count } => input(0)?.narrow(1, *start, *count).doing(doing()),
        Op::ShuffleChannels { groups } => ops::shuffle_channels(input(0)?, *groups).doing(doing()),
        Op::Flatten => input(0)?.flatten_from(1).doing(doing()),
        Op::Custom(operator) => {
            let own = operator.parameters().iter().map(|(name, _)| parameter(name)).collect::<Result<Vec<_>>>()?;
            operator.forward(inputs, &own).map_err(|e| Error::graph(&node.name, e))
        }
        Op::UpsampleNearest { factor } => ops::upsample_nearest(input(0)?, *factor).doing(doing()),
    }
}

/// The factor and the offset of each channel that a normalization applies: all that batch normalization with running statistics is, and
/// the last step of layer normalization.
///
/// # Errors
/// The node is no normalization, a parameter is missing, or shapes do not fit each other.
pub(crate) fn affine(node: &Node, parameters: &HashMap<String, Tensor>) -> Result<[Tensor; 2]> {
    let parameter = |name: &str| {
        let key = format!("{}.{name}", node.name);
        parameters.get(&key).ok_or_else(|| Error::graph(&node.name, format!("has no parameter '{key}'")))
    };
    let (gamma, beta) = (parameter("weight")?, parameter("bias")?);
    let eps = match &node.op {
        Op::BatchNorm { eps } => eps,
        Op::LayerNorm { .. } => return Ok([gamma.clone(), beta.clone()]),
        other => return Err(Error::graph(&node.name, format!("{} is no normalization", other.name()))),
    };
    let (mean, variance) = (parameter("running_mean")?, parameter("running_var")?);
    let run = || {
        let factor = gamma.div(&(variance + *eps)?.sqrt()?)?;
        let offset = (beta - (mean * &factor)?)?;
        Ok([factor, offset])
    };
    run().doing(format!("computing the factors of batch_norm '{}'", node.name))
}
