//! From a recipe to a quantized, evaluated and saved network.

mod broken;
mod calibrate;
mod cost;
mod estimate;
mod evaluate;
mod flatness;
mod inspect;
mod load;
mod measure;
mod mixed;
mod moving;
mod networks;
mod pairs;
mod plan;
mod prepare;
mod published;
mod reconstruct;
mod refine;
mod registries;
mod rehearse;
mod sanity;
mod saved;
mod sensitivity;
mod session;
mod uneven;

pub use crate::summary::Summary;
pub use calibrate::{calibrate, Observed, Observers};
pub use cost::NetworkCost;
pub use estimate::Estimate;
pub use evaluate::{evaluate, Look};
pub use flatness::{Batches, Curve, CurvePoint, Direction};
pub use load::{calibration_images, load_ahead, load_batch, too_few_images, Batch, CalibrationSet, Part};
pub use measure::ShownNetwork;
pub use pairs::{evaluate_pairs, Pair, PairMeasurement};
pub use plan::{plan_sites, SitePlan};
pub use reconstruct::{reconstruct, Resources};
#[cfg(all(unix, feature = "dynamic-plugins"))]
pub(crate) use registries::declared;
pub use registries::Registries;
pub use sanity::FloatSample;
pub use saved::{load_saved, save_model, save_summary, SavedModel};
pub use sensitivity::{Sensitivity, Subject};
pub use session::{RunResult, Session};
