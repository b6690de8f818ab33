//! Preparations: what is done to the float network before calibration, such as equalizing its channels.

mod context;
mod guard;
mod scale;

pub use context::{Calibrated, Change, Prepared, Preparing};
pub use scale::{clip_scalable_relu6, scale_channels};

use crate::error::Result;
use crate::graph::Graph;
use crate::guard::Origin;
use crate::model::QuantModel;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use guard::GuardedPreparation;

/// Changes the float network before it is calibrated, so that it loses less when it is quantized. The float network's
/// outputs stay the same, up to [`tolerance`](Self::tolerance).
pub trait Preparation: Send + Sync {
    /// Largest change of a float output by this preparation, relative to the largest output. The framework checks it on
    /// calibration images, and refuses a network that changed more.
    fn tolerance(&self) -> f64;

    /// Changes operations, not values: afterwards the network must compute exactly the same. It depends on the graph
    /// alone, because it is called wherever the network is built, also without weights; what depends on weights or images
    /// belongs to [`apply`](Self::apply). The default changes nothing.
    ///
    /// # Errors
    /// The graph does not allow it.
    fn rewrite(&self, model: &mut QuantModel) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// What [`apply`](Self::apply) will do, for readers and without weights or images: one line for each part of the
    /// network. The default says nothing.
    ///
    /// # Errors
    /// The graph does not allow it.
    fn outline(&self, graph: &Graph) -> Result<Vec<String>> {
        let _ = graph;
        Ok(Vec::new())
    }

    /// Changes the parameters of the float network, which was rewritten before. Returns what it did.
    ///
    /// # Errors
    /// A parameter is missing, images cannot be read, or the run was cancelled.
    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>>;
}

define_kind!(
    /// Constructor of a preparation.
    PreparationKind,
    "preparation",
    fn(&Params) -> Result<Box<dyn Preparation>>
);

impl Entry<PreparationKind> {
    /// Builds the preparation.
    ///
    /// # Errors
    /// A parameter is wrong, or the tolerance is not a positive number.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Preparation>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params))?;
        Ok(Box::new(GuardedPreparation::new(origin, inner)?))
    }
}

/// Registers a preparation. The fields are those of [`register_observer!`](crate::register_observer), except that
/// `build` takes only the parameters.
#[macro_export]
macro_rules! register_preparation {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::preparation::PreparationKind, $name, [$($alias),*], $summary, $build);
    };
}
