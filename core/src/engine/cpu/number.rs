//! A learned scalar (the scale or the zero point of an activation), and the update that all variables share.

use crate::engine::checks::rate_of;
use crate::engine::interface::EngineState;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::ops::host_values;
use crate::optim::adam_step;
use candle_core::Tensor;
use qdrop_kernels::adam::{self, AdamStep};

/// One update of all learned variables.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Learning rates by parameter group.
    pub rates: &'a [(&'a str, f64)],
    /// Number of the update, from 1.
    pub number: usize,
}

impl Update<'_> {
    /// Adam's coefficients for a variable.
    pub fn of(&self, variable: &Variable) -> Result<AdamStep> {
        Ok(adam_step(rate_of(self.rates, variable.group)?, self.number))
    }
}

/// A learned scalar.
pub struct Number {
    variable: Variable,
    /// Value, running mean of gradients, running mean of their squares.
    state: [f32; 3],
    /// Factor of the gradient (LSQ's gradient scale).
    factor: f64,
}

impl Number {
    pub fn new(variable: Variable, factor: f64) -> Result<Self> {
        let value = first(variable.var.as_tensor())?;
        Ok(Self { variable, state: [value, 0.0, 0.0], factor })
    }

    pub fn value(&self) -> f32 {
        self.state[0]
    }

    pub fn set(&mut self, value: f32) {
        self.state[0] = value;
    }

    pub fn learn(&mut self, gradient: f64, update: Update<'_>) -> Result<()> {
        let adam = update.of(&self.variable)?;
        let [mut value, mut mean, mut square] = self.state.map(|v| [v]);
        adam::update(&mut value, &[(gradient * self.factor) as f32], &mut mean, &mut square, adam);
        self.state = [value[0], mean[0], square[0]];
        Ok(())
    }

    fn tensor(&self, value: f32) -> Result<Tensor> {
        Ok(Tensor::full(value, self.variable.var.shape(), self.variable.var.device())?)
    }

    pub fn keep(&self, state: &mut EngineState) -> Result<()> {
        let [value, mean, square] = self.state;
        self.variable.keep(state, [self.tensor(value)?, self.tensor(mean)?, self.tensor(square)?]);
        Ok(())
    }

    pub fn restore(&mut self, state: &EngineState) -> Result<()> {
        for (own, tensor) in self.state.iter_mut().zip(self.variable.kept(state)?) {
            *own = first(tensor)?;
        }
        Ok(())
    }

    pub fn write_back(&self) -> Result<()> {
        Ok(self.variable.var.set(&self.tensor(self.state[0])?)?)
    }
}

fn first(x: &Tensor) -> Result<f32> {
    Ok(host_values(x, |v| v.first().copied().unwrap_or_default())?)
}
