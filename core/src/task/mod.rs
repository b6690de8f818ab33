//! Tasks: the purpose of a network. A task says which targets it compares outputs with, measures the network, and
//! explains what may be wrong if the network falls far behind its published result.

mod guard;
mod interface;
mod measurement;
mod paired;

pub use interface::{Comparison, Drawn, Meter, Record, Task};
pub use measurement::{Measurement, Metric, MetricUnit};
pub use paired::{ImageValues, PairCounts, PairedComparison};

use crate::error::Result;
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use guard::GuardedTask;

define_kind!(
    /// Constructor of a task.
    TaskKind,
    "task",
    fn(&Params) -> Result<Box<dyn Task>>
);

impl Entry<TaskKind> {
    /// Builds the task.
    ///
    /// # Errors
    /// A parameter is wrong, or the task has no valid metrics.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Task>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params))?;
        Ok(Box::new(GuardedTask::new(origin, inner)?))
    }
}

/// The metrics to show of a measurement by this task: all of the task's metrics, and those of its image metrics that were
/// measured.
pub fn shown_metrics(task: &dyn Task, measured: &Measurement) -> Vec<Metric> {
    let mut shown = task.metrics();
    let mut more = task.image_metrics();
    more.retain(|metric| measured.values.contains_key(&metric.key) && shown.iter().all(|m| m.key != metric.key));
    shown.append(&mut more);
    shown
}

/// Registers a task. The fields are those of [`register_observer!`](crate::register_observer), except that `build`
/// takes only the parameters.
#[macro_export]
macro_rules! register_task {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::task::TaskKind, $name, [$($alias),*], $summary, $build);
    };
}
