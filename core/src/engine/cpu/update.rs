//! The update that all learned variables share.

use crate::engine::checks::rate_of;
use crate::engine::variable::Variable;
use crate::error::Result;
use crate::optim::adam_step;
use qdrop_kernels::adam::AdamStep;

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
