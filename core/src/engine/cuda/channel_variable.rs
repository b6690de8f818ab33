//! Learned variables other than roundings and activations' scales: biases, and scales of weights.

use crate::cuda::abi::Rates;
use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels::{learn_channels, Channels};
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;

/// A learned variable with one element for each output channel, or a single one that all channels share.
pub struct ChannelVariable {
    variable: Variable,
    /// The variable's row of the table of rates.
    group: usize,
    value: Buffer<f32>,
    mean: Buffer<f32>,
    square: Buffer<f32>,
    /// What the learning rate of each element is relative to.
    size: Buffer<f32>,
    /// The gradient of each channel.
    pub gradient: Buffer<f64>,
    channels: usize,
}

impl ChannelVariable {
    pub fn new(device: &dyn Device, variable: Variable, group: usize, channels: usize) -> Result<Self> {
        let values = host_values(variable.var.as_tensor(), <[f32]>::to_vec)?;
        Ok(Self {
            mean: Buffer::zeros(device, values.len())?,
            square: Buffer::zeros(device, values.len())?,
            gradient: Buffer::zeros(device, channels)?,
            value: Buffer::new(device, &values)?,
            size: Buffer::new(device, &variable.sizes()?)?,
            variable,
            group,
            channels,
        })
    }

    /// One update; `out` takes the values of all channels, `before` those that it had.
    pub fn learn(
        &self,
        device: &dyn Device,
        rates: &Buffer<Rates>,
        out: &Buffer<f32>,
        before: Option<&Buffer<f32>>,
        are_scales: bool,
    ) -> Result<()> {
        let Self { value, mean, square, size, gradient, .. } = self;
        let channels = Channels { value, mean, square, size, gradient, are_scales };
        learn_channels(device, &channels, (rates, self.group), out, before)
    }

    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, self.variable.var.shape(), self.variable.var.device())?)
    }

    pub fn keep(&self, device: &dyn Device, state: &mut EngineState) -> Result<()> {
        let read = |buffer: &Buffer<f32>| self.tensor(&buffer.to_vec(device)?);
        self.variable.keep(state, [read(&self.value)?, read(&self.mean)?, read(&self.square)?]);
        Ok(())
    }

    /// Takes the values of a state; `out` takes those of all channels.
    pub fn restore(&self, device: &dyn Device, state: &EngineState, out: &Buffer<f32>) -> Result<()> {
        let kept = self.variable.kept(state)?;
        for (own, tensor) in [&self.value, &self.mean, &self.square].into_iter().zip(kept) {
            host_values(tensor, |values| own.write(device, 0, values))??;
        }
        let values = host_values(kept[0], <[f32]>::to_vec)?;
        let all: Vec<f32> = match values[..] {
            [one] => vec![one; self.channels],
            _ => values,
        };
        out.write(device, 0, &all)
    }

    pub fn write_back(&self, device: &dyn Device) -> Result<()> {
        Ok(self.variable.var.set(&self.tensor(&self.value.to_vec(device)?)?)?)
    }
}
