//! Reconstructors: the optimization that recovers a unit's output.

use crate::error::{Error, Result};
use crate::graph::{NodeId, Unit};
use crate::model::QuantModel;
use crate::ops::{self, Keep};
use crate::params::Params;
use crate::pipeline::Progress;
use crate::quantizer::Parameter;
use crate::random::RandomSource;
use crate::registry::define_kind;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

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

/// What a reconstructor gets from outside; nothing comes from globals.
pub struct Context<'a> {
    /// Source of all random draws.
    pub random: &'a dyn RandomSource,
    /// Where progress goes and where requests to stop come from.
    pub progress: &'a dyn Progress,
}

/// The cached values that a unit is reconstructed from; the first axis counts samples.
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
    pub data: UnitData,
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
    pub fn new(model: &'a mut QuantModel, unit: &'a Unit, index: usize, data: UnitData) -> Result<Self> {
        let (input, output) = (model.graph().unit_input(unit)?, model.graph().unit_output(unit)?);
        Ok(Self { name: &unit.name, index, data, model, nodes: unit.nodes.clone(), input, output })
    }

    /// Number of cached samples.
    pub fn samples(&self) -> usize {
        self.data.float_input.dims().first().copied().unwrap_or_default()
    }

    /// The cached values of the given samples.
    ///
    /// # Errors
    /// The tensor library's.
    pub fn batch(&self, samples: &[usize]) -> Result<UnitData> {
        let picks: Vec<u32> = samples.iter().map(|i| *i as u32).collect();
        let picks = Tensor::new(picks, self.data.float_input.device())?;
        let pick = |t: &Tensor| t.index_select(&picks, 0);
        Ok(UnitData {
            quantized_input: pick(&self.data.quantized_input)?,
            float_input: pick(&self.data.float_input)?,
            float_output: pick(&self.data.float_output)?,
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

    /// Everything that the unit's quantizers learn, with a unique name.
    pub fn parameters(&self) -> Vec<(String, Parameter)> {
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

/// Registers a reconstructor; the fields are those of
/// [`register_observer!`](crate::register_observer), `build` takes the parameters alone.
#[macro_export]
macro_rules! register_reconstructor {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::reconstructor::ReconstructorKind, $name, [$($alias),*], $summary, $build);
    };
}
