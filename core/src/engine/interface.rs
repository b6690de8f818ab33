//! What an engine does, whatever it computes with.

use crate::error::Result;
use crate::ops::Keep;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::time::Duration;

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
