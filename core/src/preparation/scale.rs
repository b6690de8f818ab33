//! Scales the channels of a network without changing what it computes.

use crate::error::{Error, Result};
use crate::graph::{channel_groups, channel_read, ChannelGroup, NodeId, Op};
use crate::model::QuantModel;
use crate::ops::Activation;
use candle_core::{DType, Tensor};

/// Replaces every ReLU6 whose channels can be scaled by a [`Clip`](Op::Clip) at 6.
///
/// # Errors
/// A tensor cannot be made on the device.
pub fn clip_scalable_relu6(model: &mut QuantModel) -> Result<()> {
    for id in channel_groups(model.graph()).iter().flat_map(|group| &group.values) {
        let node = model.graph().node(*id);
        if node.op == Op::Activation(Activation::Relu6) {
            let bound = Tensor::full(6.0_f32, node.shape[0], model.device())?;
            model.replace_activation(*id, Op::Clip, &[("bound", bound)])?;
        }
    }
    Ok(())
}

/// Divides the channels of a group's values by `factors`, one for each of the group's [factors](ChannelGroup::factors):
/// weights and biases of the layers that compute them are divided, and the weights of the layers that read them
/// multiplied; the bounds of clips are divided too (Nagel et al., arXiv 1906.04721, equations 7 to 10). The network
/// computes the same, up to rounding.
///
/// # Errors
/// A factor is not a positive number, the number of factors is wrong, the group has an activation function that does not
/// pass a factor on (a ReLU6 must be a [`Clip`](Op::Clip) first), or a parameter is missing.
pub fn scale_channels(model: &mut QuantModel, group: &ChannelGroup, factors: &[f64]) -> Result<()> {
    if factors.len() != group.factors || factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        let message = format!("{} positive factors are needed, not {factors:?}", group.factors);
        return Err(Error::message(message));
    }
    // The factor of each channel of a value.
    let of = |value: NodeId| -> Vec<f64> {
        group.channels(value).iter().map(|factor| factor.map_or(1.0, |f| factors[f])).collect()
    };
    for id in &group.values {
        let node = model.graph().node(*id).clone();
        let divided = of(*id).iter().map(|f| 1.0 / f).collect::<Vec<_>>();
        match node.op {
            Op::Conv2d { bias, .. } | Op::Linear { bias, .. } => {
                multiply(model, &format!("{}.weight", node.name), |i, shape| divided[i / inner(shape)])?;
                if bias {
                    multiply(model, &format!("{}.bias", node.name), |i, _| divided[i])?;
                }
                let corrected = model.corrected_biases().find(|(layer, _)| layer == id).map(|(_, bias)| bias.clone());
                if let Some(bias) = corrected {
                    model.correct_bias(*id, multiplied(&bias, |i, _| divided[i])?)?;
                }
                model.divide_statistics(*id, &of(*id));
            }
            Op::BatchNorm { .. } => {
                for own in ["weight", "bias"] {
                    multiply(model, &format!("{}.{own}", node.name), |i, _| divided[i])?;
                }
            }
            Op::Clip => multiply(model, &format!("{}.bound", node.name), |i, _| divided[i])?,
            Op::Activation(function) if !function.is_homogeneous() => {
                let message = format!("{} does not pass a factor on", node.op.name());
                return Err(Error::graph(&node.name, message));
            }
            Op::Input
            | Op::Activation(_)
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
            | Op::Custom(_) => {}
        }
    }
    for id in &group.consumers {
        let node = model.graph().node(*id).clone();
        let read = node.inputs.first().map(|input| of(*input)).unwrap_or_default();
        match node.op {
            Op::Conv2d { .. } | Op::Linear { .. } => {
                let groups = node.op.groups();
                multiply(model, &format!("{}.weight", node.name), |i, shape| read[channel_read(i, shape, groups)])?;
            }
            // y = gamma (x s - mean) / sqrt(var + eps) + beta, where x is the scaled value.
            Op::BatchNorm { .. } => {
                multiply(model, &format!("{}.weight", node.name), |i, _| read[i])?;
                multiply(model, &format!("{}.running_mean", node.name), |i, _| 1.0 / read[i])?;
            }
            _ => return Err(Error::graph(&node.name, format!("{} has no weight", node.op.name()))),
        }
    }
    Ok(())
}

/// Elements of a row of a weight.
fn inner(shape: &[usize]) -> usize {
    shape[1..].iter().product()
}

/// Multiplies each element of a parameter by a factor of its index, in f64.
fn multiply(model: &mut QuantModel, name: &str, factor: impl Fn(usize, &[usize]) -> f64) -> Result<()> {
    let new = multiplied(model.parameter(name)?, factor)?;
    model.set_parameter(name, new)
}

fn multiplied(old: &Tensor, factor: impl Fn(usize, &[usize]) -> f64) -> Result<Tensor> {
    let shape = old.dims();
    let values: Vec<f64> = old.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let values: Vec<f32> = values.iter().enumerate().map(|(i, v)| (v * factor(i, shape)) as f32).collect();
    Ok(Tensor::from_vec(values, shape, old.device())?)
}
