//! Reconstructors: the optimization that recovers a unit's output.

use crate::cache::CachedValues;
use crate::error::{Error, Result};
use crate::fused::{Engine, FusedUnit};
use crate::graph::{NodeId, Unit};
use crate::model::QuantModel;
use crate::ops::{self, Keep};
use crate::params::Params;
use crate::plugin::guard::{GuardedReconstructor, Origin};
use crate::progress::{Event, Progress};
use crate::quantizer::Parameter;
use crate::random::RandomSource;
use crate::registry::{define_kind, Entry};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a network is divided for reconstruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// No reconstruction at all.
    None,
    /// The architecture's units (blocks).
    Block,
    /// Every layer by itself.
    Layer,
}

/// Losses of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Mean squared error of the unit's output, summed over channels.
    pub reconstruction: f64,
    /// Weighted rounding regularizer; 0 during warm-up.
    pub rounding: f64,
    /// Sharpness of the regularizer; its first value during warm-up.
    pub b: f64,
}

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    /// The unit.
    pub name: String,
    /// Losses of every step.
    pub losses: Vec<LossPoint>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl UnitReport {
    /// Mean losses of the first or last steps (up to 20).
    pub fn mean_losses(&self, last: bool) -> Option<LossPoint> {
        let n = self.losses.len().min(20);
        let range = if last { self.losses.len() - n..self.losses.len() } else { 0..n };
        let points = &self.losses[range];
        let mean = |f: fn(&LossPoint) -> f64| points.iter().map(f).sum::<f64>() / n as f64;
        (n > 0).then(|| LossPoint {
            reconstruction: mean(|p| p.reconstruction),
            rounding: mean(|p| p.rounding),
            b: mean(|p| p.b),
        })
    }
}

/// The state of a unit's optimization between two steps, enough to go on from there.
#[derive(Debug, Clone, Default)]
pub struct Interrupted {
    /// Losses of the steps done.
    pub losses: Vec<LossPoint>,
    /// Variables and optimizer state by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Interrupted {
    /// A tensor of the state.
    ///
    /// # Errors
    /// It is missing.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::message(format!("the interrupted state has no '{name}'")))
    }
}

/// Keeps the state of a unit whose optimization is asked to stop.
pub trait Interruption {
    /// The state in which the current unit was interrupted, if it was.
    ///
    /// # Errors
    /// The state cannot be read.
    fn resume(&self) -> Result<Option<Interrupted>>;

    /// Keeps the state of the current unit.
    ///
    /// # Errors
    /// The state cannot be written.
    fn keep(&self, state: &Interrupted) -> Result<()>;
}

/// For runs that cannot be resumed: keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forget;

impl Interruption for Forget {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(None)
    }

    fn keep(&self, _: &Interrupted) -> Result<()> {
        Ok(())
    }
}

/// What a reconstructor gets from outside; nothing comes from globals.
pub struct Context<'a> {
    /// Source of all random draws.
    pub random: &'a dyn RandomSource,
    /// Where progress goes and where requests to stop come from.
    pub progress: &'a dyn Progress,
    /// Where the state goes when the run is asked to stop within a unit.
    pub interruption: &'a dyn Interruption,
    /// Which path reconstructs a unit.
    pub engine: Engine,
}

/// The cached values of all samples that a unit is reconstructed from.
#[derive(Debug, Clone)]
pub struct UnitSamples {
    /// The unit's input in the network quantized so far.
    pub quantized_input: Arc<CachedValues>,
    /// The unit's input in the full-precision network.
    pub float_input: Arc<CachedValues>,
    /// The unit's output in the full-precision network.
    pub float_output: Arc<CachedValues>,
}

impl UnitSamples {
    /// All values of `data`, in memory.
    ///
    /// # Errors
    /// There is no sample.
    pub fn in_memory(data: &UnitData) -> Result<Self> {
        Ok(Self {
            quantized_input: CachedValues::in_memory(&data.quantized_input)?,
            float_input: CachedValues::in_memory(&data.float_input)?,
            float_output: CachedValues::in_memory(&data.float_output)?,
        })
    }
}

/// The values of some samples that a unit is reconstructed from; the first axis counts samples.
#[derive(Debug, Clone)]
pub struct UnitData {
    /// The unit's input in the network quantized so far.
    pub quantized_input: Tensor,
    /// The unit's input in the full-precision network.
    pub float_input: Tensor,
    /// The unit's output in the full-precision network.
    pub float_output: Tensor,
}

/// A unit under reconstruction.
pub struct UnitTask<'a> {
    /// Name of the unit.
    pub name: &'a str,
    /// Position of the unit in the network.
    pub index: usize,
    /// Cached inputs and outputs.
    pub samples: UnitSamples,
    model: &'a mut QuantModel,
    nodes: Vec<NodeId>,
    input: NodeId,
    output: NodeId,
}

impl<'a> UnitTask<'a> {
    /// A task for `unit` of `model`.
    ///
    /// # Errors
    /// The unit has no single input or output.
    pub fn new(model: &'a mut QuantModel, unit: &'a Unit, index: usize, samples: UnitSamples) -> Result<Self> {
        let (input, output) = (model.graph().unit_input(unit)?, model.graph().unit_output(unit)?);
        Ok(Self { name: &unit.name, index, samples, model, nodes: unit.nodes.clone(), input, output })
    }

    /// Number of cached samples.
    pub fn sample_count(&self) -> usize {
        self.samples.float_input.samples()
    }

    /// The cached values of the given samples.
    ///
    /// # Errors
    /// The cached values cannot be read.
    pub fn batch(&self, samples: &[usize]) -> Result<UnitData> {
        Ok(UnitData {
            quantized_input: self.samples.quantized_input.gather(samples)?,
            float_input: self.samples.float_input.gather(samples)?,
            float_output: self.samples.float_output.gather(samples)?,
        })
    }

    /// The unit's input for a training step: cached quantized and float values mixed element by
    /// element.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn mixed_input(&self, batch: &UnitData, keep: &Keep) -> Result<Tensor> {
        Ok(ops::drop(&batch.quantized_input, &batch.float_input, keep)?)
    }

    /// The unit's output with quantized weights and activations. `keep(i)` says which elements of
    /// activation site `i` (from 1, in the order of execution) keep their quantized value.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn forward(&self, input: &Tensor, keep: &dyn Fn(usize) -> Keep) -> Result<Tensor> {
        self.model.unit_forward(&self.nodes, self.input, self.output, input, keep)
    }

    /// Tells all quantizers of the unit to start learning.
    ///
    /// # Errors
    /// A quantizer cannot learn here.
    pub fn begin(&mut self) -> Result<()> {
        self.model.begin_reconstruction(&self.nodes)
    }

    /// The unit's fused step for batches of this size, once reconstruction has begun; `None` where the engine
    /// is generic, or where the unit has no fused step: then a warning says why.
    ///
    /// # Errors
    /// The engine is `fused` and the unit has no fused step; a quantizer's errors.
    pub fn fused(&self, batch: usize, context: &Context<'_>) -> Result<Option<FusedUnit>> {
        if context.engine == Engine::Generic {
            return Ok(None);
        }
        match FusedUnit::compile(self.model, &self.nodes, (self.input, self.output), &self.samples, batch)? {
            Ok(unit) => Ok(Some(unit)),
            Err(why) if context.engine == Engine::Fused => {
                Err(self.error(format!("has no fused step: {why}; use --engine auto")))
            }
            Err(why) => {
                context.progress.event(Event::Generic { unit: self.name, why: &why });
                Ok(None)
            }
        }
    }

    /// Everything that the unit's quantizers learn, with a unique name.
    ///
    /// # Errors
    /// A quantizer's.
    pub fn parameters(&self) -> Result<Vec<(String, Parameter)>> {
        self.model.unit_parameters(&self.nodes)
    }

    /// The sum of the quantizers' regularizers, unweighted; `None` when none has one.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        self.model.unit_regularizer(&self.nodes, b)
    }

    /// Ends learning and writes the hard weights into the model.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn finish(&mut self) -> Result<()> {
        self.model.finish_reconstruction(&self.nodes)
    }

    /// An error that names the unit.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::graph(self.name, message)
    }
}

/// Optimizes what the quantizers of a unit learn.
pub trait Reconstructor: Send + Sync {
    /// How the network is divided.
    fn grouping(&self) -> Grouping;

    /// Checks, before anything runs, that so many calibration samples are enough.
    ///
    /// # Errors
    /// They are not.
    fn check_samples(&self, samples: usize) -> Result<()> {
        let _ = samples;
        Ok(())
    }

    /// Run only so many iterations, with the learning rates scaled up so that iterations x rate
    /// stays the same. The default is for reconstructors that do not iterate: nothing changes.
    ///
    /// # Errors
    /// The number is not possible.
    fn shorten(&mut self, iters: usize) -> Result<()> {
        let _ = iters;
        Ok(())
    }

    /// Optimizer steps for each unit, for estimates of the time; 0 for those that do not iterate.
    fn steps(&self) -> usize {
        0
    }

    /// Anything that the user must know before the run, such as that results are not comparable.
    fn notice(&self) -> Option<String> {
        None
    }

    /// Reconstructs one unit: begin, optimize, finish.
    ///
    /// # Errors
    /// The optimization diverged, or the run was cancelled.
    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport>;
}

define_kind!(
    /// Constructor of a reconstructor.
    ReconstructorKind,
    "reconstructor",
    fn(&Params) -> Result<Box<dyn Reconstructor>>
);

impl Entry<ReconstructorKind> {
    /// A new reconstructor.
    ///
    /// # Errors
    /// A parameter is wrong.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Reconstructor>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params))?;
        Ok(Box::new(GuardedReconstructor::new(origin, inner)?))
    }
}

/// Registers a reconstructor; the fields are those of
/// [`register_observer!`](crate::register_observer), `build` takes the parameters alone.
#[macro_export]
macro_rules! register_reconstructor {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::reconstructor::ReconstructorKind, $name, [$($alias),*], $summary, $build);
    };
}
