//! What a reconstructor gets from the framework, and where it saves its state when it is interrupted.

use crate::engine::{Engine, EngineState};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::RandomSource;
use crate::report::LossPoint;
use candle_core::Tensor;

/// The state of a unit's optimization between two steps, from which it can be resumed.
#[derive(Debug, Clone, Default)]
pub struct Interrupted {
    /// Losses of the steps so far.
    pub losses: Vec<LossPoint>,
    /// Variables and optimizer state by name.
    pub tensors: EngineState,
}

impl Interrupted {
    /// One tensor of the state.
    ///
    /// # Errors
    /// It is missing.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::message(format!("the interrupted state has no '{name}'")))
    }
}

/// Saves and restores the state of a unit whose optimization is interrupted.
pub trait Interruption {
    /// The saved state of the current unit, if it was interrupted.
    ///
    /// # Errors
    /// The state cannot be read.
    fn resume(&self) -> Result<Option<Interrupted>>;

    /// Saves the state of the current unit.
    ///
    /// # Errors
    /// The state cannot be written.
    fn keep(&self, state: &Interrupted) -> Result<()>;
}

/// For runs that cannot be resumed: saves nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forget;

impl Interruption for Forget {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(None)
    }

    fn keep(&self, _: &Interrupted) -> Result<()> {
        Ok(())
    }
}

/// What a reconstructor gets from the framework. There is no global state.
pub struct Context<'a> {
    /// Source of all random draws.
    pub random: &'a dyn RandomSource,
    /// Receives progress events and reports requests to stop.
    pub progress: &'a dyn Progress,
    /// Saves the state when the run is stopped within a unit.
    pub interruption: &'a dyn Interruption,
    /// The engine that reconstructs a unit.
    pub engine: Engine,
}
