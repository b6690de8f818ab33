//! Reconstructors: the optimization that makes a quantized unit reproduce its float output.

mod context;
mod rest;
mod statistics;
mod task;

pub use context::{Context, Forget, Interrupted, Interruption};
pub use rest::Rest;
pub use task::UnitTask;

use crate::error::Result;
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use crate::report::UnitReport;

/// How a network is divided for reconstruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// No reconstruction at all.
    None,
    /// The architecture's units (blocks).
    Block,
    /// Every layer is a unit.
    Layer,
}

/// Optimizes the learned parameters of a unit's quantizers.
pub trait Reconstructor: Send + Sync {
    /// How the network is divided into units.
    fn grouping(&self) -> Grouping;

    /// Checks before the run that this number of calibration samples is enough.
    ///
    /// # Errors
    /// There are too few samples.
    fn check_samples(&self, samples: usize) -> Result<()> {
        let _ = samples;
        Ok(())
    }

    /// Runs `iters` iterations instead, with learning rates to match. With published parameters, iterations times learning rate
    /// stays the same. The default changes nothing; it is for reconstructors that do not iterate.
    ///
    /// # Errors
    /// This number of iterations is not possible.
    fn shorten(&mut self, iters: usize) -> Result<()> {
        let _ = iters;
        Ok(())
    }

    /// Steps for each unit, for the estimate of the time; 0 for reconstructors that do not iterate.
    fn steps(&self) -> usize {
        0
    }

    /// Steps for a unit of this [cost](UnitTask::cost), for the estimate of the time. The default is that all units take
    /// equally many.
    fn steps_at(&self, cost: f64) -> usize {
        let _ = cost;
        self.steps()
    }

    /// A warning to the user before the run, such as that results are not comparable.
    fn notice(&self) -> Option<String> {
        None
    }

    /// Reconstructs one unit: calls [`UnitTask::begin`], optimizes, and calls [`UnitTask::finish`].
    ///
    /// # Errors
    /// The optimization diverged, or the run was cancelled.
    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport>;

    /// Steps of [`reconstruct_network`](Self::reconstruct_network); 0, the default, if there is no such stage.
    fn network_steps(&self) -> usize {
        0
    }

    /// Reconstructs the whole network as one unit, after all of its units: a last stage, in which layers make up for each
    /// other's errors. It is called only if there are [`network_steps`](Self::network_steps).
    ///
    /// # Errors
    /// Those of [`reconstruct`](Self::reconstruct).
    fn reconstruct_network(&self, network: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        let _ = context;
        Err(network.error("the reconstructor has steps for the whole network, but does not reconstruct it"))
    }
}

/// Wraps the reconstructor of a registry entry, so that its panics become errors. Its constants are read once.
struct GuardedReconstructor {
    origin: Origin,
    grouping: Grouping,
    steps: usize,
    network_steps: usize,
    notice: Option<String>,
    inner: Box<dyn Reconstructor>,
}

impl GuardedReconstructor {
    fn new(origin: Origin, inner: Box<dyn Reconstructor>) -> Result<Self> {
        let mut guarded = Self { origin, grouping: Grouping::None, steps: 0, network_steps: 0, notice: None, inner };
        guarded.ask_again()?;
        Ok(guarded)
    }

    fn ask_again(&mut self) -> Result<()> {
        self.grouping = self.origin.ask("grouping", || self.inner.grouping())?;
        self.steps = self.origin.ask("steps", || self.inner.steps())?;
        self.network_steps = self.origin.ask("network_steps", || self.inner.network_steps())?;
        self.notice = self.origin.ask("notice", || self.inner.notice())?;
        Ok(())
    }
}

impl Reconstructor for GuardedReconstructor {
    fn grouping(&self) -> Grouping {
        self.grouping
    }

    fn check_samples(&self, samples: usize) -> Result<()> {
        self.origin.call("check_samples", || self.inner.check_samples(samples))
    }

    fn shorten(&mut self, iters: usize) -> Result<()> {
        self.origin.call("shorten", || self.inner.shorten(iters))?;
        self.ask_again()
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn steps_at(&self, cost: f64) -> usize {
        self.origin.ask("steps_at", || self.inner.steps_at(cost)).unwrap_or(self.steps)
    }

    fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        self.origin.call("reconstruct", || self.inner.reconstruct(unit, context))
    }

    fn network_steps(&self) -> usize {
        self.network_steps
    }

    fn reconstruct_network(&self, network: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        self.origin.call("reconstruct_network", || self.inner.reconstruct_network(network, context))
    }
}

define_kind!(
    /// Constructor of a reconstructor.
    ReconstructorKind,
    "reconstructor",
    fn(&Params) -> Result<Box<dyn Reconstructor>>
);

impl Entry<ReconstructorKind> {
    /// Builds a reconstructor.
    ///
    /// # Errors
    /// A parameter is wrong.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Reconstructor>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params))?;
        Ok(Box::new(GuardedReconstructor::new(origin, inner)?))
    }
}

/// Registers a reconstructor. The fields are those of
/// [`register_observer!`](crate::register_observer), except that `build` takes only the parameters.
#[macro_export]
macro_rules! register_reconstructor {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::reconstructor::ReconstructorKind, $name, [$($alias),*], $summary, $build);
    };
}
