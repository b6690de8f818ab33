//! The rest of the float network after a unit.

use super::context::Context;
use super::task::UnitTask;
use crate::engine::{Engine, FloatPart};
use crate::error::Result;
use crate::graph::NodeId;
use crate::progress::Event;
use candle_core::Tensor;

/// The rest of the float network after a unit. Losses on the network's outputs need it, such as the prediction
/// difference of PD-Quant (arXiv 2212.07048).
pub struct Rest<'a> {
    task: &'a UnitTask<'a>,
    part: FloatPart,
}

impl UnitTask<'_> {
    /// The rest of the float network, from the unit's outputs to the network's outputs. If the context's engine is not
    /// `generic` and the fused kernels of the CPU cannot compute a unit of it, an event reports why. On a GPU candle computes it.
    ///
    /// # Errors
    /// A parameter of the network cannot be read, or the network has a head, so that its graph's outputs are not its results.
    pub fn rest(&self, context: &Context<'_>) -> Result<Rest<'_>> {
        Rest::new(self, context)
    }
}

impl<'a> Rest<'a> {
    fn new(task: &'a UnitTask<'a>, context: &Context<'_>) -> Result<Self> {
        let model = task.float_model();
        if model.has_head() {
            return Err(task.error("losses on the network's outputs are not for networks with a head"));
        }
        let part = model.graph().after(task.part());
        if context.engine == Engine::Generic || !model.device().is_cpu() {
            return Ok(Self { task, part: FloatPart::generic(part) });
        }
        let (part, refusal) = FloatPart::fused(model, part)?;
        if let Some(why) = refusal {
            context.progress.event(Event::GenericRest { unit: task.name, why: &why.to_string() });
        }
        Ok(Self { task, part })
    }

    /// Computes the network's outputs in full precision from outputs of the unit (N, ...). Gradients flow back to the
    /// given outputs. `samples` are the samples that the outputs belong to, for values that bypass the unit.
    ///
    /// # Errors
    /// The outputs do not match the unit, a value that bypasses the unit is not cached, or an operation fails.
    pub fn forward(&self, outputs: &[Tensor], samples: &[usize]) -> Result<Vec<Tensor>> {
        let task = self.task;
        let own = task.part().outputs();
        if outputs.len() != own.len() {
            return Err(task.error(format!("{} outputs were given, it has {}", outputs.len(), own.len())));
        }
        let input = |id: &NodeId| match own.iter().position(|output| output == id) {
            Some(place) => Ok(outputs[place].clone()),
            None => task.samples.passing(*id, samples).map_err(|e| task.error(e)),
        };
        let inputs = self.part.inputs().iter().map(input).collect::<Result<Vec<_>>>()?;
        self.part.forward(task.float_model(), &inputs)
    }
}
