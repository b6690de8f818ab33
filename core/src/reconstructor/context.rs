//! What a reconstructor gets from outside, and where its state goes when it is stopped.

use crate::engine::{Engine, EngineState};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::RandomSource;
use crate::report::LossPoint;
use candle_core::Tensor;

/// The state of a unit's optimization between two steps, enough to go on from there.
#[derive(Debug, Clone, Default)]
pub struct Interrupted {
    /// Losses of the steps done.
    pub losses: Vec<LossPoint>,
    /// Variables and optimizer state by name.
    pub tensors: EngineState,
}

impl Interrupted {
    /// A tensor of the state.
    ///
    /// # Errors
    /// It is missing.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::message(format!("the interrupted state has no '{name}'")))
    }
}

/// Keeps the state of a unit whose optimization is asked to stop.
pub trait Interruption {
    /// The state in which the current unit was interrupted, if it was.
    ///
    /// # Errors
    /// The state cannot be read.
    fn resume(&self) -> Result<Option<Interrupted>>;

    /// Keeps the state of the current unit.
    ///
    /// # Errors
    /// The state cannot be written.
    fn keep(&self, state: &Interrupted) -> Result<()>;
}

/// For runs that cannot be resumed: keeps nothing.
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

/// What a reconstructor gets from outside; nothing comes from globals.
pub struct Context<'a> {
    /// Source of all random draws.
    pub random: &'a dyn RandomSource,
    /// Where progress goes and where requests to stop come from.
    pub progress: &'a dyn Progress,
    /// Where the state goes when the run is asked to stop within a unit.
    pub interruption: &'a dyn Interruption,
    /// Which engine reconstructs a unit.
    pub engine: Engine,
}
