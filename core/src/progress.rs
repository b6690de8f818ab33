//! Progress events, which the library sends to its caller. The library itself never prints.

use crate::preparation::Change;
use crate::report::{LossPoint, UnitReport};
use std::collections::HashSet;
use std::sync::Mutex;

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
    /// A preparation of the float network is done.
    Prepared {
        /// Its name.
        name: &'a str,
        /// What it did.
        changes: &'a [Change],
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
    /// Candle computes a part of the float network after a unit, which the unit's loss needs, because the fused kernels cannot.
    GenericRest {
        /// The unit.
        unit: &'a str,
        /// Why the fused kernels cannot compute the first part that they cannot.
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

/// Forwards events, but each warning only once. A run opens its data and measures several times, and would otherwise
/// warn about the same image each time.
pub struct WarnOnce<'a> {
    next: &'a dyn Progress,
    said: Mutex<HashSet<String>>,
}

impl<'a> WarnOnce<'a> {
    /// Forwards to `next`.
    pub fn new(next: &'a dyn Progress) -> Self {
        Self { next, said: Mutex::default() }
    }
}

impl Progress for WarnOnce<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = &event {
            if !self.said.lock().unwrap_or_else(|e| e.into_inner()).insert(text.clone()) {
                return;
            }
        }
        self.next.event(event);
    }

    fn cancelled(&self) -> bool {
        self.next.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records warnings and counts other events.
    #[derive(Default)]
    struct Record(Mutex<(Vec<String>, usize)>);

    impl Progress for Record {
        fn event(&self, event: Event<'_>) {
            let mut record = self.0.lock().unwrap();
            match event {
                Event::Warning(text) => record.0.push(text),
                _ => record.1 += 1,
            }
        }

        fn cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_warning_is_forwarded_once_and_other_events_always() {
        let record = Record::default();
        let once = WarnOnce::new(&record);
        for text in ["a", "b", "a", "a"] {
            once.event(Event::Warning(text.into()));
            once.event(Event::Finished);
        }
        assert_eq!(*record.0.lock().unwrap(), (vec!["a".to_string(), "b".to_string()], 4));
        assert!(once.cancelled());
    }
}
