//! Engines: the ways to compute the steps of a unit's reconstruction.
//!
//! Whatever an engine computes with, a reconstructor sees [`UnitEngine`]. The [`generic`] engine runs a unit through
//! candle: any operation, any quantizer. It defines the meaning. Fused engines compute the same, only faster, for
//! units that are a [`chain`] of layers whose quantizers say what they compute
//! ([`Quantizer::kernel`](crate::quantizer::Quantizer::kernel)): the chain describes the unit without naming a
//! device, and [`cpu`] makes a plan over preallocated buffers of it.

mod chain;
mod cpu;
mod generic;
mod memory;
mod samples;
mod variable;

pub use chain::Refusal;
pub use samples::{input_site, UnitData, UnitSamples};

use crate::error::{Error, Result};
use crate::graph::Unit;
use crate::model::QuantModel;
use crate::ops::Keep;
use candle_core::Tensor;
use chain::{Chain, Rejected};
use cpu::CpuUnit;
use generic::GenericUnit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// The rounding regularizer of a step: `weight * (1 - |2 h(alpha) - 1|^b)`, summed over all weights (AdaRound,
/// arXiv 2004.10568, equation 24).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularizer {
    /// Its weight, lambda.
    pub weight: f64,
    /// Its sharpness.
    pub b: f64,
}

/// Wall-clock time that all steps so far spent.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Reading samples, and all that leads to the loss or the output.
    pub forward: Duration,
    /// Gradients.
    pub backward: Duration,
}

/// Tensors that an optimization can go on from, by name.
pub type EngineState = BTreeMap<String, Tensor>;

/// Computes the steps of a unit whose quantizers have begun to learn.
///
/// A step computes gradients of everything that is learned, either from the built-in loss ([`loss`](Self::loss)) or from
/// a gradient that the caller computes with a loss of its own ([`forward`](Self::forward), then
/// [`backward`](Self::backward)), and ends with [`update`](Self::update).
///
/// `samples` are numbers of cached samples, as many as the engine's batch size. `keep(i)` says which elements keep
/// their quantized value at site `i`: 0 is the unit's first input ([`input_site`] tells those of further inputs), then
/// come its activation quantizers, from 1, in the order of execution.
pub trait UnitEngine: Send {
    /// The unit's outputs (N, ...) for some samples, their inputs mixed from quantized and float values.
    ///
    /// # Errors
    /// The number of samples is not the batch size, cached values cannot be read, or an operation fails.
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>>;

    /// Gradients of everything that is learned, from those of the outputs that the last [`forward`](Self::forward)
    /// gave; they replace earlier ones.
    ///
    /// # Errors
    /// There was no forward pass, or a gradient has another shape than its output.
    fn backward(&mut self, gradients: &[Tensor]) -> Result<()>;

    /// The built-in loss, and the gradients that come from it, which replace earlier ones: for each output the mean
    /// over samples and positions of the squared difference to the float network's value, summed over channels
    /// ([`reconstruction_loss`](crate::ops::reconstruction_loss)); several outputs are added.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); the loss is not finite.
    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64>;

    /// One Adam update of everything that is learned. `rates` are the learning rates of the parameters' groups.
    /// Returns the weighted regularizer before the update, 0 without one.
    ///
    /// # Errors
    /// There are no gradients, a group has no rate, or the regularizer is not finite.
    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64>;

    /// Everything that the next step depends on, but the number of updates.
    ///
    /// # Errors
    /// A tensor cannot be made.
    fn state(&mut self) -> Result<EngineState>;

    /// Goes on as after `updates` updates that ended in `state`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; the message names it.
    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()>;

    /// Leaves what was learned in the quantizers' variables.
    ///
    /// # Errors
    /// A variable cannot be set.
    fn finish(&mut self) -> Result<()>;

    /// Time spent so far.
    fn times(&self) -> StepTimes;
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

/// The rate of a group.
fn rate_of(rates: &[(&str, f64)], group: &str) -> Result<f64> {
    let found = rates.iter().find(|(name, _)| *name == group);
    found.map(|(_, rate)| *rate).ok_or_else(|| {
        let known: Vec<&str> = rates.iter().map(|(name, _)| *name).collect();
        Error::message(format!("the parameters' group '{group}' has no learning rate; there are rates for {known:?}"))
    })
}

/// Checks the number of samples of a step.
fn check_batch(samples: &[usize], batch: usize) -> Result<()> {
    if samples.len() == batch {
        return Ok(());
    }
    Err(Error::message(format!("a step of {} samples, but the engine was made for batches of {batch}", samples.len())))
}

/// Checks the shapes of gradients against those of the outputs of the last forward pass.
fn check_gradients<'a>(
    gradients: impl ExactSizeIterator<Item = &'a [usize]>,
    outputs: impl ExactSizeIterator<Item = &'a [usize]>,
) -> Result<()> {
    if outputs.len() == 0 {
        return Err(Error::message("there is no forward pass to go back from; call `forward` before each `backward`"));
    }
    if gradients.len() != outputs.len() {
        return Err(Error::message(format!("{} gradients for {} outputs", gradients.len(), outputs.len())));
    }
    match gradients.zip(outputs).find(|(gradient, output)| gradient != output) {
        Some((gradient, output)) => {
            Err(Error::message(format!("a gradient of the shape {gradient:?} for an output of the shape {output:?}")))
        }
        None => Ok(()),
    }
}

fn no_gradients() -> Error {
    Error::message("an update without gradients: call `loss`, or `forward` and `backward`, before it")
}

/// An error about a loss that is not finite.
fn diverged(what: &str, value: f64) -> Error {
    Error::message(format!("the {what} became {value}; lower the learning rates or check the weights"))
}
