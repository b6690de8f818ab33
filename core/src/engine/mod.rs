//! Engines compute the optimization steps of a unit's reconstruction.
//!
//! A reconstructor sees every engine as a [`UnitEngine`]. The `generic` engine computes a unit with candle's
//! operations. It supports every operation and every quantizer, and its results are the reference. Fused engines
//! compute the same results faster. They support units that are a `chain` of steps whose quantizers describe their
//! computation ([`Quantizer::kernel`](crate::quantizer::Quantizer::kernel)). The chain describes the unit
//! independently of a device; the engine `cpu` compiles it into a plan over preallocated buffers.

mod chain;
mod checks;
mod cpu;
mod cuda;
mod generic;
mod interface;
mod memory;
mod rest;
mod samples;
mod variable;

pub use chain::Refusal;
pub use interface::{EngineState, Regularizer, Step, StepPass, StepTimes, UnitEngine};

pub(crate) use rest::FloatPart;
pub use samples::{input_site, UnitData, UnitSamples, EVERYTHING};

use crate::cuda::Device;
use crate::error::{Error, Result};
use crate::graph::Unit;
use crate::model::QuantModel;
use chain::{AnySize, Block, Chain, Rejected};
use cpu::CpuUnit;
use cuda::DeviceUnit;
use generic::GenericUnit;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which engine reconstructs a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The fused engine where it can compute the unit, else the generic engine.
    #[default]
    Auto,
    /// Always the generic engine.
    Generic,
    /// The fused engine; a unit that it cannot compute is an error.
    Fused,
}

/// The steps that an engine is to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stepping {
    /// Samples of a batch.
    pub batch: usize,
    /// Batches of a step, whose gradients are averaged.
    pub passes: usize,
    /// Whether steps mix quantized and float values ([`Keep::Mixed`](crate::ops::Keep::Mixed)).
    pub mixing: bool,
}

impl Stepping {
    /// Steps of one batch of this size.
    pub fn of(batch: usize) -> Self {
        Self { batch, passes: 1, mixing: false }
    }
}

/// An engine for a unit whose quantizers have begun to learn, for these steps. For [`Engine::Auto`] also why the fused engine cannot
/// compute the unit, if it cannot.
///
/// # Errors
/// The batch is empty; the fused engine is requested but cannot compute the unit; a step needs more memory than is free; a
/// quantizer fails.
pub(crate) fn open<'a>(
    engine: Engine,
    model: &'a QuantModel,
    unit: &'a Unit,
    samples: &UnitSamples,
    stepping: Stepping,
    device: Option<&Arc<dyn Device>>,
) -> Result<(Box<dyn UnitEngine + 'a>, Option<Refusal>)> {
    let batch = stepping.batch;
    if batch == 0 {
        return Err(Error::graph(&unit.name, "a batch needs one sample at least"));
    }
    let refusal = match engine {
        Engine::Generic => None,
        Engine::Auto | Engine::Fused => match described(model, unit, samples, stepping, device) {
            Ok(described) => return Ok((fused(described, model, samples, batch)?, None)),
            Err(Rejected::Failed(error)) => return Err(error),
            Err(Rejected::Refused(why)) if engine == Engine::Fused => {
                return Err(Error::graph(
                    &unit.name,
                    format!("the fused engine cannot compute this unit: {why}; use --engine auto"),
                ));
            }
            Err(Rejected::Refused(why)) => Some(why),
        },
    };
    Ok((Box::new(GenericUnit::new(model, unit, samples.clone(), batch)?), refusal))
}

/// A unit as the fused engine of a device computes it.
enum Described<'a> {
    /// For the CPU, perhaps for images of any size.
    Chain(Box<Chain>, Option<Box<AnySize>>),
    /// For a device of the CUDA engine: the one that was given, or the model's.
    Block(Box<Block>, Option<&'a Arc<dyn Device>>),
}

/// What the fused engine of the model's device, or of `device`, computes of a unit.
fn described<'a>(
    model: &QuantModel,
    unit: &Unit,
    samples: &UnitSamples,
    stepping: Stepping,
    device: Option<&'a Arc<dyn Device>>,
) -> Result<Described<'a>, Rejected> {
    let chain = Chain::of(model, &unit.subgraph)?;
    let any_size = samples.group().is_some();
    if device.is_none() && !model.device().is_cuda() {
        let any_size = any_size.then(|| Box::new(AnySize::new(model, &unit.subgraph)));
        return Ok(Described::Chain(Box::new(chain), any_size));
    }
    let refused =
        [(stepping.mixing, Refusal::Mixing), (any_size, Refusal::Sizes), (stepping.passes > 1, Refusal::Passes)];
    if let Some((_, why)) = refused.into_iter().find(|(refused, _)| *refused) {
        return Err(why.into());
    }
    Ok(Described::Block(Box::new(Block::of(chain)?), device))
}

/// The fused engine of a unit.
fn fused<'a>(
    unit: Described<'_>,
    model: &QuantModel,
    samples: &UnitSamples,
    batch: usize,
) -> Result<Box<dyn UnitEngine + 'a>> {
    let (block, device) = match unit {
        Described::Chain(chain, any_size) => {
            return Ok(Box::new(CpuUnit::new(*chain, any_size.map(|sizes| *sizes), samples, batch)?));
        }
        Described::Block(block, device) => (block, device),
    };
    let own = match device {
        Some(device) => Some(device.clone()),
        None => crate::cuda::of(model.device())?,
    };
    let own = own.ok_or_else(|| Error::message("this build of qdrop has no engine for the model's device"))?;
    Ok(Box::new(DeviceUnit::new(own, model.device().clone(), *block, samples, batch, model.tf32())?))
}
