//! Learned variables, and the names of their values in an engine's state.

use super::interface::EngineState;
use crate::error::{Error, Result};
use crate::ops::host_values;
use crate::quantizer::Parameter;
use candle_core::{Tensor, Var};

/// A learned variable.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name within the unit, such as "layer1.0.conv1.weight.alpha".
    pub name: String,
    /// The variable that the quantizer or the model reads once learning has ended.
    pub var: Var,
    /// The parameter group, for which a reconstructor sets the learning rate.
    pub group: &'static str,
    /// What its learning rates are relative to, see [`Parameter::size`].
    pub size: Option<Tensor>,
}

impl Variable {
    /// The variable of a parameter that has this name within the unit.
    pub fn new(name: String, Parameter { var, group, size, .. }: Parameter) -> Self {
        Self { name, var, group, size }
    }

    /// What the learning rate of each element is relative to; 1 where it is absolute.
    ///
    /// # Errors
    /// The tensor cannot be copied, or has another shape than the variable.
    pub fn sizes(&self) -> Result<Vec<f32>> {
        match &self.size {
            None => Ok(vec![1.0; self.var.elem_count()]),
            Some(size) if size.dims() == self.var.dims() => Ok(host_values(size, <[f32]>::to_vec)?),
            Some(size) => {
                let (name, found, want) = (&self.name, size.dims(), self.var.dims());
                Err(Error::message(format!("the size of '{name}' has the shape {found:?}, not {want:?}")))
            }
        }
    }

    /// Adds the value, the running mean of its gradients and that of their squares to a state.
    pub fn keep(&self, state: &mut EngineState, [value, mean, square]: [Tensor; 3]) {
        state.extend([(self.mean_name(), mean), (self.square_name(), square), (self.name.clone(), value)]);
    }

    /// The tensors that [`keep`](Self::keep) added.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape than the variable.
    pub fn kept<'a>(&self, state: &'a EngineState) -> Result<[&'a Tensor; 3]> {
        let tensor = |name: &str| {
            let tensor = state.get(name).ok_or_else(|| Error::message(format!("the saved state has no '{name}'")))?;
            if tensor.dims() != self.var.dims() {
                let (found, want) = (tensor.dims(), self.var.dims());
                return Err(Error::message(format!(
                    "'{name}' of the saved state has the shape {found:?}, not {want:?}"
                )));
            }
            Ok(tensor)
        };
        Ok([tensor(&self.name)?, tensor(&self.mean_name())?, tensor(&self.square_name())?])
    }

    fn mean_name(&self) -> String {
        format!("{}.adam_mean", self.name)
    }

    fn square_name(&self) -> String {
        format!("{}.adam_square", self.name)
    }
}
