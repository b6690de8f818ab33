//! Variables that an engine learns, and the names of their state.

use super::interface::EngineState;
use crate::error::{Error, Result};
use candle_core::{Tensor, Var};

/// Something that is learned.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name within the unit, such as "layer1.0.conv1.weight.alpha".
    pub name: String,
    /// Where the quantizer or the model reads it once learning has ended.
    pub var: Var,
    /// The name that a reconstructor gives a learning rate to.
    pub group: &'static str,
}

impl Variable {
    /// Adds value, running mean of gradients and running mean of their squares to a state.
    pub fn keep(&self, state: &mut EngineState, [value, mean, square]: [Tensor; 3]) {
        state.extend([(self.mean_name(), mean), (self.square_name(), square), (self.name.clone(), value)]);
    }

    /// What [`keep`](Self::keep) added.
    ///
    /// # Errors
    /// A tensor is missing, or has another shape than the variable.
    pub fn kept<'a>(&self, state: &'a EngineState) -> Result<[&'a Tensor; 3]> {
        let tensor = |name: &str| {
            let tensor = state.get(name).ok_or_else(|| Error::message(format!("the kept state has no '{name}'")))?;
            if tensor.dims() != self.var.dims() {
                let (found, want) = (tensor.dims(), self.var.dims());
                return Err(Error::message(format!(
                    "'{name}' of the kept state has the shape {found:?}, not {want:?}"
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
