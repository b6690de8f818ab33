//! Engines: the ways to compute the steps of a unit's reconstruction.
//!
//! Whatever an engine computes with, a reconstructor sees [`UnitEngine`]. The [`generic`] engine runs a unit through
//! candle: any operation, any quantizer. It defines the meaning. Fused engines compute the same, only faster, for
//! units that are a [`chain`] of layers whose quantizers say what they compute
//! ([`Quantizer::kernel`](crate::quantizer::Quantizer::kernel)): the chain describes the unit without naming a
//! device, and [`cpu`] makes a plan over preallocated buffers of it.

mod chain;
mod checks;
mod cpu;
mod generic;
mod interface;
mod memory;
mod samples;
mod variable;

pub use chain::Refusal;
pub use interface::{EngineState, Regularizer, StepTimes, UnitEngine};
pub use samples::{input_site, UnitData, UnitSamples};

use crate::error::{Error, Result};
use crate::graph::Unit;
use crate::model::QuantModel;
use chain::{Chain, Rejected};
use cpu::CpuUnit;
use generic::GenericUnit;
use serde::{Deserialize, Serialize};

/// Which engine reconstructs a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Fused where a unit allows it.
    #[default]
    Auto,
    /// Through candle, always.
    Generic,
    /// Fused; a unit that does not allow it is an error.
    Fused,
}

/// An engine for a unit whose quantizers have begun to learn, and why it is not a fused one, if it is not and could
/// have been.
///
/// # Errors
/// The engine is to be fused and the unit does not allow it; the step needs more memory than there is; a quantizer
/// fails.
pub(crate) fn open<'a>(
    engine: Engine,
    model: &'a QuantModel,
    unit: &'a Unit,
    samples: &UnitSamples,
    batch: usize,
) -> Result<(Box<dyn UnitEngine + 'a>, Option<Refusal>)> {
    let refusal = match engine {
        Engine::Generic => None,
        Engine::Auto | Engine::Fused => match Chain::of(model, &unit.subgraph) {
            Ok(chain) => return Ok((Box::new(CpuUnit::new(chain, samples, batch)?), None)),
            Err(Rejected::Failed(error)) => return Err(error),
            Err(Rejected::Refused(why)) if engine == Engine::Fused => {
                return Err(Error::graph(&unit.name, format!("has no fused step: {why}; use --engine auto")));
            }
            Err(Rejected::Refused(why)) => Some(why),
        },
    };
    Ok((Box::new(GenericUnit::new(model, unit, samples.clone(), batch)?), refusal))
}
