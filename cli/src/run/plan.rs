//! The estimated time and memory of a run.

use crate::error::{At, Result, Stage};
use qdrop_core::engine::Engine;
use qdrop_core::memory::peak_resident;
use qdrop_core::pipeline::{NetworkCost, Session};
use qdrop_core::progress::Progress;
use qdrop_core::Error as Core;

/// The estimated time and memory of quantization on this machine.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Units to reconstruct.
    pub units: usize,
    /// Steps of each unit; 0 without reconstruction.
    pub iterations: usize,
    /// Seconds of reconstruction.
    pub seconds: f64,
    /// Memory of the process in bytes.
    pub memory_bytes: u64,
    /// Size of the cached values of all calibration images, in memory and files.
    pub cache_bytes: u64,
    /// The part of them that goes to files.
    pub spilled_bytes: u64,
    /// What the quantized network takes.
    pub cost: NetworkCost,
}

/// Estimates the time and memory of a session's run.
pub fn plan(session: &Session<'_>, progress: &dyn Progress) -> Result<Plan> {
    let model = match session.float_model() {
        // The time does not depend on the weights, so zeros serve if none are given.
        Err(Core::NotGiven { .. }) => session.zero_model(),
        model => model,
    };
    let estimate = session.estimate(model.at(Stage::FloatNetwork)?, progress).at(Stage::Estimate)?;
    let recipe = session.recipe();
    let limit = recipe.cache.limit.as_u64();
    // The measured steps had the full batch size, so the peak includes their memory.
    // The fused engine keeps a second copy of a unit's cached values if the limit has room for it.
    let copies = if recipe.engine == Engine::Generic { 1 } else { 2 };
    let reconstruction = peak_resident().unwrap_or(0) + (copies * estimate.cache_bytes).min(limit);
    let images: usize = session.graph().input_shape().iter().product::<usize>() * 4 * recipe.calibration.images;
    let calibration = estimate.calibration_bytes + (images as u64).min(limit);
    Ok(Plan {
        units: estimate.units,
        iterations: estimate.steps,
        seconds: estimate.seconds,
        memory_bytes: if estimate.steps == 0 { calibration } else { reconstruction.max(calibration) },
        cache_bytes: estimate.cache_bytes,
        spilled_bytes: estimate.cache_bytes.saturating_sub(limit),
        cost: session.cost().at(Stage::Estimate)?,
    })
}
