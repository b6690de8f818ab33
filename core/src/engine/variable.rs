//! Learned variables, and the names of their values in an engine's state.

use super::interface::EngineState;
use crate::error::{Error, Result};
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
}

impl Variable {
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
