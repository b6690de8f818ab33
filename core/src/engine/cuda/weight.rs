//! A weight of a unit with its bias and its convolution.

use super::channel_variable::ChannelVariable;
use super::groups::Groups;
use crate::cuda::abi::{Rates, Regularizer};
use crate::cuda::convolution::{from_device_order, to_device_order, Convolution};
use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels::{self, bias_gradient, learn_rounding, scale_gradient, soft_weight};
use crate::engine::chain::{ChainConvolution, ChainWeight, SoftRounding};
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;

/// Partial sums of a bias's gradient for each channel.
const BIAS_PARTS: usize = 32;

/// A weight, its bias and the convolution that uses them.
pub struct Weight {
    convolution: Convolution,
    value: Buffer<f32>,
    /// The gradient, if anything of it is learned.
    gradient: Option<Buffer<f32>>,
    rounding: Option<Rounding>,
    pub bias: Option<Buffer<f32>>,
    learned_bias: Option<(ChannelVariable, Buffer<f64>)>,
}

/// The learned rounding of a weight.
struct Rounding {
    variable: Variable,
    group: usize,
    shape: Conv2dShape,
    alpha: Buffer<f32>,
    mean: Buffer<f32>,
    square: Buffer<f32>,
    floor: Buffer<f32>,
    scale: Buffer<f32>,
    zero_point: Buffer<f32>,
    bounds: [f32; 2],
    /// Whether passes compute with hard roundings, and gradients with soft ones.
    straight_through: bool,
    /// The first of its terms of the regularizer among those of all weights.
    first_term: usize,
    /// Learned scales, and those before the update.
    learned_scale: Option<(ChannelVariable, Buffer<f32>)>,
}

impl Rounding {
    fn new(
        device: &dyn Device,
        rounding: SoftRounding,
        shape: Conv2dShape,
        groups: &mut Groups,
        first_term: usize,
    ) -> Result<Self> {
        let ordered = |x: &Tensor| -> Result<Buffer<f32>> {
            Buffer::new(device, &host_values(x, |values| to_device_order(&shape, values))?)
        };
        let learned_scale = match rounding.learned_scale {
            None => None,
            Some(variable) => {
                let (group, channels) = (groups.number(variable.group), rounding.scale.len());
                let scale = ChannelVariable::new(device, variable, group, channels)?;
                Some((scale, Buffer::zeros(device, channels)?))
            }
        };
        let len = shape.weight_len();
        Ok(Self {
            alpha: ordered(rounding.alpha.var.as_tensor())?,
            floor: ordered(&rounding.floor)?,
            mean: Buffer::zeros(device, len)?,
            square: Buffer::zeros(device, len)?,
            scale: Buffer::new(device, &rounding.scale)?,
            zero_point: Buffer::new(device, &rounding.zero_point)?,
            bounds: [rounding.qmin, rounding.qmax],
            straight_through: rounding.straight_through,
            group: groups.number(rounding.alpha.group),
            variable: rounding.alpha,
            shape,
            first_term,
            learned_scale,
        })
    }

    fn numbers(&self) -> kernels::Rounding<'_> {
        let Self { alpha, mean, square, floor, scale, zero_point, bounds, straight_through, .. } = self;
        kernels::Rounding { alpha, mean, square, floor, scale, zero_point, bounds: *bounds, hard: *straight_through }
    }

    fn tensor(&self, device: &dyn Device, buffer: &Buffer<f32>) -> Result<Tensor> {
        let var = &self.variable.var;
        Ok(Tensor::from_vec(from_device_order(&self.shape, &buffer.to_vec(device)?), var.shape(), var.device())?)
    }
}

impl Weight {
    /// `terms` counts the terms of the regularizer of all weights.
    pub fn new(
        device: &dyn Device,
        convolution: ChainConvolution,
        groups: &mut Groups,
        terms: &mut usize,
        has_input_gradient: bool,
        tf32: bool,
    ) -> Result<Self> {
        let ChainConvolution { shape, weight, bias } = convolution;
        let (value, rounding) = match weight {
            ChainWeight::Fixed(value) => (Buffer::new(device, &to_device_order(&shape, &value))?, None),
            ChainWeight::SoftRounding(rounding) => {
                let first = *terms;
                *terms += kernels::terms(shape.weight_len());
                let rounding = Rounding::new(device, rounding, shape, groups, first)?;
                (Buffer::zeros(device, shape.weight_len())?, Some(rounding))
            }
        };
        let (bias, learned) = bias.map_or((None, None), |b| (Some(b.value), b.learned));
        let channels = shape.out_channels;
        let learned_bias = match learned {
            None => None,
            Some(variable) => {
                let group = groups.number(variable.group);
                let parts = Buffer::zeros(device, BIAS_PARTS * channels)?;
                Some((ChannelVariable::new(device, variable, group, channels)?, parts))
            }
        };
        let learns = rounding.is_some();
        let weight = Self {
            convolution: Convolution::new(device, shape, learns, has_input_gradient, tf32)?,
            gradient: learns.then(|| Buffer::zeros(device, shape.weight_len())).transpose()?,
            value,
            rounding,
            bias: bias.map(|b| Buffer::new(device, &b)).transpose()?,
            learned_bias,
        };
        weight.prepare(device)?;
        Ok(weight)
    }

    /// Makes roundings hard, until [`prepare`](Self::prepare) makes them soft again.
    pub fn harden(&self, device: &dyn Device) -> Result<()> {
        let Some(rounding) = &self.rounding else { return Ok(()) };
        soft_weight(device, &kernels::Rounding { hard: true, ..rounding.numbers() }, &self.value)
    }

    /// Computes the weight from its learned variables.
    pub fn prepare(&self, device: &dyn Device) -> Result<()> {
        self.rounding.as_ref().map_or(Ok(()), |r| soft_weight(device, &r.numbers(), &self.value))
    }

    pub fn forward(&self, device: &dyn Device, x: &Buffer<f32>, z: &Buffer<f32>) -> Result<()> {
        self.convolution.forward(device, x, &self.value, z)
    }

    pub fn backward_input(&self, device: &dyn Device, gz: &Buffer<f32>, gx: &Buffer<f32>) -> Result<()> {
        self.convolution.backward_input(device, gx, &self.value, gz)
    }

    /// The gradients of weight and bias.
    pub fn backward_weight(&self, device: &dyn Device, x: &Buffer<f32>, gz: &Buffer<f32>) -> Result<()> {
        if let Some((bias, parts)) = &self.learned_bias {
            bias_gradient(device, gz, parts, &bias.gradient)?;
        }
        self.gradient.as_ref().map_or(Ok(()), |gradient| self.convolution.backward_weight(device, x, gradient, gz))
    }

    /// One update of the learned variables. `terms` takes the regularizer before it.
    pub fn learn(
        &self,
        device: &dyn Device,
        rates: &Buffer<Rates>,
        regularizer: &Buffer<Regularizer>,
        terms: &Buffer<f64>,
    ) -> Result<()> {
        if let (Some((learned, _)), Some(bias)) = (&self.learned_bias, &self.bias) {
            learned.learn(device, rates, bias, None, false)?;
        }
        let (Some(rounding), Some(gradient)) = (&self.rounding, &self.gradient) else { return Ok(()) };
        let numbers = rounding.numbers();
        if let Some((scale, before)) = &rounding.learned_scale {
            scale_gradient(device, &numbers, gradient, &scale.gradient)?;
            scale.learn(device, rates, &rounding.scale, Some(before), true)?;
        }
        // The gradient of alpha belongs to the scales that the step computed with, not to the updated ones.
        let used = rounding.learned_scale.as_ref().map_or(&rounding.scale, |(_, before)| before);
        let (rates, terms) = ((rates, rounding.group), (terms, rounding.first_term));
        learn_rounding(device, &numbers, used, gradient, rates, regularizer, &self.value, terms)
    }

    pub fn keep(&self, device: &dyn Device, state: &mut EngineState) -> Result<()> {
        if let Some(r) = &self.rounding {
            let tensors = [&r.alpha, &r.mean, &r.square].map(|buffer| r.tensor(device, buffer));
            let [value, mean, square] = tensors;
            r.variable.keep(state, [value?, mean?, square?]);
            r.learned_scale.as_ref().map_or(Ok(()), |(scale, _)| scale.keep(device, state))?;
        }
        self.learned_bias.as_ref().map_or(Ok(()), |(bias, _)| bias.keep(device, state))
    }

    pub fn restore(&self, device: &dyn Device, state: &EngineState) -> Result<()> {
        if let Some(r) = &self.rounding {
            let kept = r.variable.kept(state)?;
            for (own, tensor) in [&r.alpha, &r.mean, &r.square].into_iter().zip(kept) {
                own.write(device, 0, &host_values(tensor, |values| to_device_order(&r.shape, values))?)?;
            }
            if let Some((scale, _)) = &r.learned_scale {
                scale.restore(device, state, &r.scale)?;
            }
        }
        if let (Some((learned, _)), Some(bias)) = (&self.learned_bias, &self.bias) {
            learned.restore(device, state, bias)?;
        }
        self.prepare(device)
    }

    pub fn write_back(&self, device: &dyn Device) -> Result<()> {
        if let Some(r) = &self.rounding {
            r.variable.var.set(&r.tensor(device, &r.alpha)?)?;
            r.learned_scale.as_ref().map_or(Ok(()), |(scale, _)| scale.write_back(device))?;
        }
        self.learned_bias.as_ref().map_or(Ok(()), |(bias, _)| bias.write_back(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_kernels::conv::Padding;

    #[test]
    fn the_order_of_the_device_has_the_channels_last() {
        let shape = Conv2dShape {
            batch: 1,
            in_channels: 4,
            in_height: 3,
            in_width: 3,
            out_channels: 2,
            kernel: [1, 3],
            stride: [1, 1],
            padding: Padding::default(),
            dilation: [1, 1],
            groups: 2,
        };
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let ordered = to_device_order(&shape, &values);
        assert_eq!(ordered, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
        assert_eq!(from_device_order(&shape, &ordered), values);
    }
}
