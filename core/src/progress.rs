//! Progress events, which the library sends to its caller. The library itself never prints.

use crate::report::{LossPoint, UnitReport};

/// A progress event.
#[derive(Debug)]
pub enum Event<'a> {
    /// Work on `total` items begins.
    Started {
        /// Name of the work, such as "calibration images".
        stage: &'a str,
        /// Number of items.
        total: usize,
    },
    /// This number of items of the current work is done.
    Advanced(usize),
    /// The current work is done.
    Finished,
    /// A step of a unit's reconstruction is done.
    Step {
        /// Number of steps done.
        step: usize,
        /// Its losses.
        loss: LossPoint,
    },
    /// The reconstruction of a unit is done.
    Unit {
        /// Position of the unit, from 1.
        number: usize,
        /// Number of units.
        of: usize,
        /// Report of the unit.
        report: &'a UnitReport,
    },
    /// The generic engine reconstructs a unit, because the fused engine cannot compute it.
    Generic {
        /// The unit.
        unit: &'a str,
        /// Why the fused engine cannot compute it.
        why: &'a str,
    },
    /// One of several quantizations of a run begins.
    Variant {
        /// Name of the variant, or of the reconstructor for the recipe itself.
        name: &'a str,
    },
    /// A warning for the user.
    Warning(String),
}

/// Receives events, and may request to stop.
pub trait Progress: Send + Sync {
    /// Receives an event.
    fn event(&self, event: Event<'_>);

    /// Whether the work should stop as soon as possible.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores all events and never requests to stop.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
