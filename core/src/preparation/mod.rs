//! Preparations: what is done to the float network before calibration, such as equalizing its channels.

mod change;
mod context;
mod guard;
mod interface;
mod scale;

pub use change::{Change, Prepared};
pub use context::{Calibrated, Preparing};
pub use interface::Preparation;
pub use scale::{clip_scalable_relu6, scale_channels};

use crate::error::Result;
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use guard::GuardedPreparation;

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
