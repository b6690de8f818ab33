//! What the library tells its caller while it works. The library itself never prints.

use crate::report::{LossPoint, UnitReport};

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Work of `total` steps begins.
    Started {
        /// What begins, such as "calibration images".
        stage: &'a str,
        /// How many steps it takes.
        total: usize,
    },
    /// So many steps of the current work are done.
    Advanced(usize),
    /// The current work is done.
    Finished,
    /// A step of a unit's reconstruction is done.
    Step {
        /// Steps done.
        step: usize,
        /// Its losses.
        loss: LossPoint,
    },
    /// A unit is reconstructed.
    Unit {
        /// Position of the unit, from 1.
        number: usize,
        /// Number of units.
        of: usize,
        /// What became of it.
        report: &'a UnitReport,
    },
    /// A unit is reconstructed through the tensor library, because it has no fused step.
    Generic {
        /// The unit.
        unit: &'a str,
        /// Why it has none.
        why: &'a str,
    },
    /// Of several quantizations of a run, the one called `name` begins.
    Variant {
        /// A variant that the recipe compares with, or the reconstructor of the recipe itself.
        name: &'a str,
    },
    /// Something that the user should know.
    Warning(String),
}

/// Receives events, and may ask to stop.
pub trait Progress: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: Event<'_>);

    /// Whether the work should stop at the next opportunity.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
