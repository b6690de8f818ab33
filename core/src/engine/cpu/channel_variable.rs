//! Learned variables other than roundings: scales and biases by channel, and the scale and the zero point of an activation.

use super::update::Update;
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::adam;
use qdrop_kernels::nhwc::Packing;

/// A learned variable with one element for each output channel, or a single one that all channels share.
pub struct ChannelVariable {
    variable: Variable,
    values: Vec<f32>,
    /// What the learning rate of each element is relative to.
    sizes: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    /// Sums of the gradient, one for each channel.
    pub sums: Vec<f64>,
    gradient: Vec<f32>,
    /// The changes of an update before they are multiplied by the sizes.
    changes: Vec<f32>,
}

impl ChannelVariable {
    pub fn new(variable: Variable, channels: usize) -> Result<Self> {
        let values = host_values(variable.var.as_tensor(), <[f32]>::to_vec)?;
        let zeros = vec![0.0; values.len()];
        Ok(Self {
            mean: zeros.clone(),
            square: zeros.clone(),
            changes: zeros.clone(),
            gradient: zeros,
            sizes: variable.sizes()?,
            sums: vec![0.0; channels],
            values,
            variable,
        })
    }

    /// The element that belongs to an output channel.
    pub fn of_channel(&self, channel: usize) -> f32 {
        self.values[if self.values.len() == 1 { 0 } else { channel }]
    }

    /// Copies the elements of all channels into the order of lanes.
    pub fn to_lanes(&self, packing: &Packing, out: &mut [f32]) {
        for channel in 0..self.sums.len() {
            out[packing.lane(channel)] = self.of_channel(channel);
        }
    }

    /// Projects every element onto its valid range.
    pub fn project(&mut self, domain: impl Fn(f32) -> f32) {
        self.values.iter_mut().for_each(|v| *v = domain(*v));
    }

    /// Projects scales, which must be positive.
    pub fn project_scale(&mut self) {
        self.project(|scale| scale.abs().max(f32::EPSILON));
    }

    /// One update from the summed gradients.
    pub fn learn(&mut self, update: Update<'_>) -> Result<()> {
        let adam = update.of(&self.variable)?;
        if let [one] = &mut self.gradient[..] {
            *one = self.sums.iter().sum::<f64>() as f32;
        } else {
            self.gradient.iter_mut().zip(&self.sums).for_each(|(g, sum)| *g = *sum as f32);
        }
        self.changes.fill(0.0);
        adam::update(&mut self.changes, &self.gradient, &mut self.mean, &mut self.square, adam);
        let changes = self.changes.iter().zip(&self.sizes);
        self.values.iter_mut().zip(changes).for_each(|(value, (change, size))| *value += size * change);
        Ok(())
    }

    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, self.variable.var.shape(), self.variable.var.device())?)
    }

    pub fn keep(&self, state: &mut EngineState) -> Result<()> {
        let tensors = [self.tensor(&self.values)?, self.tensor(&self.mean)?, self.tensor(&self.square)?];
        self.variable.keep(state, tensors);
        Ok(())
    }

    pub fn restore(&mut self, state: &EngineState) -> Result<()> {
        let kept = self.variable.kept(state)?;
        for (own, tensor) in [&mut self.values, &mut self.mean, &mut self.square].into_iter().zip(kept) {
            *own = host_values(tensor, <[f32]>::to_vec)?;
        }
        Ok(())
    }

    pub fn write_back(&self) -> Result<()> {
        Ok(self.variable.var.set(&self.tensor(&self.values)?)?)
    }
}
