//! The interface between a reconstructor and the unit that it reconstructs.

use super::context::Context;
use crate::engine::{self, Stepping, UnitEngine, UnitSamples, EVERYTHING};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Subgraph, Unit};
use crate::model::QuantModel;
use crate::ops::Keep;
use crate::progress::Event;
use crate::quantizer::{groups, Parameter};
use candle_core::Tensor;
use std::sync::Arc;

/// A unit under reconstruction.
pub struct UnitTask<'a> {
    /// Name of the unit.
    pub name: &'a str,
    /// Index of the unit in the network.
    pub index: usize,
    /// Cached inputs and outputs.
    pub samples: UnitSamples,
    pub(super) model: &'a mut QuantModel,
    pub(super) unit: &'a Unit,
    pub(super) float: Option<&'a QuantModel>,
    cost: f64,
    device: Option<Arc<dyn crate::cuda::Device>>,
    soft_share: Option<f64>,
}

impl<'a> UnitTask<'a> {
    /// Makes the task of reconstructing `unit` of `model`.
    ///
    /// # Errors
    /// The number of cached values differs from that of the unit's inputs and outputs, or they have different numbers of
    /// samples.
    pub fn new(model: &'a mut QuantModel, unit: &'a Unit, index: usize, samples: UnitSamples) -> Result<Self> {
        let (inputs, outputs) = (unit.subgraph.inputs().len(), unit.subgraph.outputs().len());
        let cached = [samples.quantized_inputs.len(), samples.float_inputs.len(), samples.float_outputs.len()];
        if cached != [inputs, inputs, outputs] {
            let message = format!("has {inputs} inputs and {outputs} outputs, but values are cached for {cached:?}");
            return Err(Error::graph(&unit.name, message));
        }
        samples.check().map_err(|message| Error::graph(&unit.name, message))?;
        Ok(Self {
            name: &unit.name,
            index,
            samples,
            model,
            unit,
            float: None,
            cost: 1.0,
            device: None,
            soft_share: None,
        })
    }

    /// Tells what a step of the unit costs, compared with the mean of all units.
    pub fn of_cost(self, cost: f64) -> Self {
        Self { cost, ..self }
    }

    /// Multiply-accumulates of the unit, relative to the mean of all units that are reconstructed; 1 where only one is.
    pub fn cost(&self) -> f64 {
        self.cost
    }

    /// Tells the float network, whose weights are those before any reconstruction.
    pub fn of_float(self, float: &'a QuantModel) -> Self {
        Self { float: Some(float), ..self }
    }

    /// The float network, if it [is known](Self::of_float); else the network as it is now.
    pub fn float_model(&self) -> &QuantModel {
        self.float.unwrap_or(self.model)
    }

    /// The weight of a layer in the float network, before any reconstruction.
    ///
    /// # Errors
    /// The node has no weight.
    pub fn float_weight(&self, node: NodeId) -> Result<&Tensor> {
        self.float_model().weight(node)
    }

    /// The part of the network that the unit is.
    pub fn part(&self) -> &Subgraph {
        &self.unit.subgraph
    }

    /// Computes fused steps on `device` instead of the model's.
    pub fn on(self, device: Arc<dyn crate::cuda::Device>) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Number of cached samples.
    pub fn sample_count(&self) -> usize {
        self.samples.count()
    }

    /// The float network's outputs for the given samples: the targets of the loss.
    ///
    /// # Errors
    /// A sample does not exist, or cached values cannot be read.
    pub fn targets(&self, samples: &[usize]) -> Result<Vec<Tensor>> {
        self.samples.targets(samples)
    }

    /// The network that the unit belongs to.
    pub fn model(&self) -> &QuantModel {
        self.model
    }

    /// The unit's nodes in the order of execution.
    pub fn nodes(&self) -> &[NodeId] {
        self.unit.nodes()
    }

    /// Calls `visit` with each layer of the unit and its input (N, ...) for the given samples. The unit reads its inputs in
    /// the network quantized so far; weights are in full precision, activations are quantized.
    ///
    /// # Errors
    /// A sample does not exist, cached values cannot be read, an operation fails, or `visit` does.
    pub fn layer_inputs(&self, samples: &[usize], visit: &mut dyn FnMut(NodeId, &Tensor) -> Result<()>) -> Result<()> {
        let inputs = self.samples.quantized_inputs.iter().map(|values| values.gather(samples));
        self.model.unit_layer_inputs(&self.unit.subgraph, &inputs.collect::<Result<Vec<_>>>()?, visit)
    }

    /// Replaces the float weight of a layer, from which [learning](Self::begin) starts. The targets of the loss stay those
    /// of the original weight.
    ///
    /// # Errors
    /// The node is no layer of the unit, or the shape differs from that of the old weight.
    pub fn set_weight(&mut self, node: NodeId, weight: Tensor) -> Result<()> {
        if !self.unit.subgraph.contains(node) {
            let name = &self.model.graph().node(node).name;
            return Err(self.error(format!("'{name}', whose weight should be replaced, is not part of it")));
        }
        self.model.set_weight(node, weight)
    }

    /// Makes the loss compare outputs and targets as their quantizers represent them now: both are clipped to the range of
    /// the quantizer's grid, and the gradient passes the clipping. Values beyond it, however large, then do not widen the
    /// range again, and do not decide what weights learn. Outputs without a quantizer are not clipped.
    ///
    /// # Errors
    /// A quantizer has no range.
    pub fn clip_to_ranges(&mut self) -> Result<()> {
        let range = |id: &NodeId| {
            let Some(site) = self.model.activation_site(*id) else { return Ok(EVERYTHING) };
            let (spec, grid) = (site.quantizer.spec(), site.quantizer.qparams()?);
            let edge = |q: f32, pick: fn(f32, f32) -> f32, start: f32| {
                let edges = grid.scale.iter().zip(&grid.zero_point).map(|(scale, zero_point)| (q - zero_point) * scale);
                edges.fold(start, pick)
            };
            Ok([edge(spec.qmin(), f32::min, f32::INFINITY), edge(spec.qmax(), f32::max, f32::NEG_INFINITY)])
        };
        self.samples.ranges = self.unit.subgraph.outputs().iter().map(range).collect::<Result<_>>()?;
        Ok(())
    }

    /// The unit's outputs with quantized weights and activations. `keep(i)` says which elements of
    /// activation site `i` (from 1, in the order of execution) keep their quantized value.
    ///
    /// # Errors
    /// The inputs do not match the unit, or an operation fails; the error names its node.
    pub fn forward(&self, inputs: &[Tensor], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>> {
        self.model.unit_forward(&self.unit.subgraph, inputs, keep)
    }

    /// Makes all quantizers of the unit begin to learn. `rates` are the parameter groups for which the reconstructor
    /// has learning rates. If the group `bias` is among them, the biases of the unit's layers are learned too.
    ///
    /// # Errors
    /// A quantizer cannot learn here, or one of its parameters is in a group that has no learning rate.
    pub fn begin(&mut self, rates: &[&str]) -> Result<()> {
        self.model.begin_reconstruction(self.unit.nodes(), rates.contains(&groups::BIAS))?;
        match self.parameters()?.iter().find(|(_, p)| !rates.contains(&p.group)) {
            Some((name, parameter)) => Err(self.error(format!(
                "its parameter '{name}' is of the group '{}', for which the reconstructor has no learning rate; it has \
                 rates for {}",
                parameter.group,
                rates.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// The engine that computes the unit's steps for batches of this size, after [`begin`](Self::begin). If the
    /// context's engine is `auto` and the fused engine cannot compute the unit, an event reports why.
    ///
    /// # Errors
    /// The batch is empty; the context's engine is `fused` and the fused engine cannot compute the unit; a step needs more memory than is
    /// free; a quantizer fails.
    pub fn engine(&self, batch: usize, context: &Context<'_>) -> Result<Box<dyn UnitEngine + '_>> {
        self.engine_for(Stepping::of(batch), context)
    }

    /// As [`engine`](Self::engine), for steps of several batches, or in which `keep` mixes quantized and float values
    /// ([`Keep::Mixed`]). The fused engine of a GPU does not support either.
    ///
    /// # Errors
    /// Those of [`engine`](Self::engine).
    pub fn engine_for(&self, stepping: Stepping, context: &Context<'_>) -> Result<Box<dyn UnitEngine + '_>> {
        let device = self.device.as_ref();
        let (engine, refusal) = engine::open(context.engine, self.model, self.unit, &self.samples, stepping, device)?;
        if let Some(why) = refusal {
            context.progress.event(Event::Generic { unit: self.name, why: &why.to_string() });
        }
        Ok(engine)
    }

    /// All learned parameters of the unit, each with a unique name.
    ///
    /// # Errors
    /// A quantizer has no range.
    pub fn parameters(&self) -> Result<Vec<(String, Parameter)>> {
        self.model.unit_parameters(self.unit.nodes())
    }

    /// The loss of outputs of the unit for the given samples, as [engines](UnitEngine::loss) compute it: clipped to the
    /// [ranges](Self::clip_to_ranges), if there are some. Gradients flow back to the outputs.
    ///
    /// # Errors
    /// The outputs do not match the samples' targets, or cached values cannot be read.
    pub fn loss(&self, outputs: &[Tensor], samples: &[usize]) -> Result<Tensor> {
        self.samples.loss(outputs, samples)
    }

    /// Ends learning and writes the hard weights into the model.
    ///
    /// # Errors
    /// A quantizer's operation fails.
    pub fn finish(&mut self) -> Result<()> {
        self.soft_share = self.model.unit_soft_share(self.unit.nodes())?;
        self.model.finish_reconstruction(self.unit.nodes())
    }

    /// The share of the roundings learned as AdaRound does whose `h(alpha)` lay between 0.05 and 0.95 when learning
    /// [ended](Self::finish): hard rounding changes these weights noticeably. `None` if there are no such roundings.
    pub fn soft_share(&self) -> Option<f64> {
        self.soft_share
    }

    /// An error that names the unit.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::graph(self.name, message)
    }
}
