//! The interface that every engine implements.

use crate::error::Result;
use crate::ops::Keep;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::time::Duration;

/// The rounding regularizer of a step: `weight * (1 - |2 h(alpha) - 1|^b)`, summed over all weights (AdaRound,
/// arXiv 2004.10568, equation 24).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularizer {
    /// The factor lambda.
    pub weight: f64,
    /// The exponent b: the larger, the flatter the term is around h = 0.5.
    pub b: f64,
}

/// One batch of a step.
pub struct StepPass<'a> {
    /// Indices of cached samples, as many as the engine's batch size.
    pub samples: &'a [usize],
    /// Which elements keep their quantized value at a site.
    pub keep: &'a dyn Fn(usize) -> Keep,
}

/// A whole step: the built-in loss, and the update with its gradients.
pub struct Step<'a> {
    /// Its batches, one at least. The mean of their losses counts.
    pub passes: &'a [StepPass<'a>],
    /// Learning rates by parameter group.
    pub rates: &'a [(&'a str, f64)],
    /// The rounding regularizer, if it takes part.
    pub regularizer: Option<Regularizer>,
}

/// Wall-clock time of all steps so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Reading samples and computing outputs and loss.
    pub forward: Duration,
    /// Computing gradients.
    pub backward: Duration,
}

/// Tensors by name from which an optimization can resume.
pub type EngineState = BTreeMap<String, Tensor>;

/// Computes the optimization steps of a unit whose quantizers have begun to learn.
///
/// A step computes the gradients of all learned variables, either of the built-in loss ([`loss`](Self::loss)) or from
/// gradients of the outputs that the caller computes with its own loss ([`forward`](Self::forward), then
/// [`backward`](Self::backward)). It ends with [`update`](Self::update).
///
/// `samples` are indices of cached samples, as many as the engine's batch size. `keep(i)` says which elements keep
/// their quantized value at site `i`: site 0 is the unit's first input ([`input_site`](super::input_site) gives the sites of further
/// inputs); sites from 1 on are its activation quantizers in the order of execution.
pub trait UnitEngine: Send {
    /// The unit's outputs (N, ...) for the given samples. Each input is a mix of its quantized and its float value.
    ///
    /// # Errors
    /// The number of samples is not the batch size, cached values cannot be read, or an operation fails.
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>>;

    /// Computes the gradients of all learned variables from the gradients of the outputs that the last
    /// [`forward`](Self::forward) returned. They replace earlier gradients.
    ///
    /// # Errors
    /// No forward pass precedes the call, or a gradient's shape differs from its output's.
    fn backward(&mut self, gradients: &[Tensor]) -> Result<()>;

    /// Returns the built-in loss and computes its gradients, which replace earlier ones. The loss of one output is the
    /// mean over samples and positions of the squared difference to the float network's value, summed over channels
    /// ([`reconstruction_loss`](crate::ops::reconstruction_loss)); the losses of several outputs are added.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and a loss that is not finite.
    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64>;

    /// Returns the built-in loss of one more batch and adds its gradients to those of the batches since the last
    /// [`loss`](Self::loss) or update. The next update uses the mean of them all. For learned scales, LSQ's factor is that of
    /// each batch.
    ///
    /// # Errors
    /// Those of [`loss`](Self::loss).
    fn add_loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64>;

    /// The built-in loss as it would be if learning ended here: roundings are hard, and every value is quantized. Computes
    /// no gradients and discards earlier ones. Learned variables do not change, except that values outside of their valid
    /// range are projected onto it, as in every pass.
    ///
    /// # Errors
    /// Those of [`loss`](Self::loss).
    fn hard_loss(&mut self, samples: &[usize]) -> Result<f64>;

    /// One Adam update of all learned variables. `rates` are the learning rates by parameter group. Returns the
    /// weighted regularizer before the update, or 0 without a regularizer.
    ///
    /// # Errors
    /// There are no gradients, a group has no learning rate, or the regularizer is not finite.
    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64>;

    /// Steps that are worth giving to [`steps`](Self::steps) at once: more than one where the engine does not wait for each.
    fn together(&self) -> usize {
        1
    }

    /// Whole steps, one after the other. Returns what [`loss`](Self::loss) and [`update`](Self::update) would of each.
    ///
    /// # Errors
    /// Those of [`loss`](Self::loss) and [`update`](Self::update), perhaps of an earlier step than the last one that was
    /// computed.
    fn steps(&mut self, steps: &[Step<'_>]) -> Result<Vec<[f64; 2]>> {
        steps
            .iter()
            .map(|step| {
                let mut sum = 0.0;
                for (i, StepPass { samples, keep }) in step.passes.iter().enumerate() {
                    sum += if i == 0 { self.loss(samples, keep)? } else { self.add_loss(samples, keep)? };
                }
                Ok([sum / step.passes.len().max(1) as f64, self.update(step.rates, step.regularizer)?])
            })
            .collect()
    }

    /// Everything that the next step depends on, except the number of updates.
    ///
    /// # Errors
    /// A tensor cannot be allocated or copied.
    fn state(&mut self) -> Result<EngineState>;

    /// Resumes from `state`, which [`state`](Self::state) returned after `updates` updates.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape; the message names it.
    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()>;

    /// Writes the learned values to the quantizers' variables.
    ///
    /// # Errors
    /// A variable cannot be set.
    fn finish(&mut self) -> Result<()>;

    /// Wall-clock time of all steps so far.
    fn times(&self) -> StepTimes;
}
