//! The groups of a unit's parameters, each of which has a row in the table of learning rates.

use crate::cuda::abi::Rates;
use crate::engine::checks::rate_of;
use crate::error::Result;
use crate::optim::adam_step;

/// The groups in the order in which they were first met.
#[derive(Debug, Default)]
pub struct Groups(Vec<&'static str>);

impl Groups {
    /// The row of a group.
    pub fn number(&mut self, group: &'static str) -> usize {
        self.0.iter().position(|g| *g == group).unwrap_or_else(|| {
            self.0.push(group);
            self.0.len() - 1
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The table of update number `number`, from 1.
    pub fn rates(&self, rates: &[(&str, f64)], number: usize) -> Result<Vec<Rates>> {
        self.0.iter().map(|group| Ok(Rates::new(adam_step(rate_of(rates, group)?, number)))).collect()
    }
}
