//! The rest of the float network after a unit, unit by unit on the fused kernels, with gradients that candle records.

use super::chain::{Chain, Refusal, Rejected};
use super::cpu::{FloatUnit, Order};
use crate::error::Result;
use crate::graph::{NodeId, Subgraph};
use crate::model::{Precision, QuantModel};
use crate::ops::{f32_values, gradient, output, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A part of the float network in steps.
pub struct FloatPart {
    part: Subgraph,
    /// In an order in which every step finds its inputs.
    steps: Vec<Step>,
}

/// A unit, or an operation outside of units.
struct Step {
    part: Subgraph,
    /// The fused kernels, if they can compute it.
    fused: Option<FusedUnit>,
}

impl FloatPart {
    /// A part of the network that candle computes, operation by operation.
    pub fn generic(part: Subgraph) -> Self {
        let steps = vec![Step { part: part.clone(), fused: None }];
        Self { part, steps }
    }

    /// A part of the network that the fused kernels compute as far as they can, and why they cannot compute the first unit that
    /// they cannot.
    ///
    /// # Errors
    /// A parameter cannot be read.
    pub fn fused(model: &QuantModel, part: Subgraph) -> Result<(Self, Option<Refusal>)> {
        let Some(parts) = split(model, &part) else { return Ok((Self::generic(part), Some(Refusal::Interleaved))) };
        let mut refusal = None;
        let mut steps = Vec::new();
        for part in parts {
            let layers = part.nodes().iter().any(|id| model.graph().node(*id).op.has_weight());
            let fused = match layers.then(|| FusedUnit::new(model, &part)).transpose() {
                Ok(fused) => fused,
                Err(Rejected::Failed(error)) => return Err(error),
                Err(Rejected::Refused(why)) => {
                    refusal.get_or_insert(why);
                    None
                }
            };
            steps.push(Step { part, fused });
        }
        let inside = |id: &NodeId| {
            let mut readers = steps.iter().filter(|step| step.part.inputs().contains(id));
            !part.outputs().contains(id) && readers.all(|step| step.fused.is_some())
        };
        let written = steps.iter().filter(|step| step.fused.is_some()).flat_map(|step| step.part.outputs());
        let inside: HashSet<NodeId> = written.copied().filter(inside).collect();
        for step in &mut steps {
            let Some(fused) = &mut step.fused else { continue };
            fused.orders =
                [step.part.inputs(), step.part.outputs()].map(|ends| match ends.iter().all(|id| inside.contains(id)) {
                    true => Order::ChannelsLast,
                    false => Order::Planes,
                });
        }
        Ok((Self { part, steps }, refusal))
    }

    /// The values that the part reads from outside.
    pub fn inputs(&self) -> &[NodeId] {
        self.part.inputs()
    }

    /// The outputs (N, ...) for inputs (N, ...), both in the part's order. Gradients flow back to the inputs.
    ///
    /// # Errors
    /// An input does not fit the part, or an operation fails.
    pub fn forward(&self, model: &QuantModel, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.part.check_inputs(model.graph(), inputs.iter().map(Tensor::dims))?;
        let mut values: HashMap<NodeId, Tensor> =
            self.part.inputs().iter().copied().zip(inputs.iter().cloned()).collect();
        for Step { part, fused } in &self.steps {
            let inputs = model.graph().values_of(part.inputs(), &values)?;
            let outputs = match (fused, inputs.as_slice()) {
                (Some(fused), [input]) => vec![fused.forward(input)?],
                _ => model.run(part, &inputs, Precision::Float)?,
            };
            values.extend(part.outputs().iter().copied().zip(outputs));
        }
        model.graph().values_of(self.part.outputs(), &values)
    }
}

/// The units of a part and the operations between them, each after those that it reads; `None` if there is no such order.
fn split(model: &QuantModel, part: &Subgraph) -> Option<Vec<Subgraph>> {
    let graph = model.graph();
    let whole = |unit: &&crate::graph::Unit| unit.nodes().iter().all(|id| part.contains(*id));
    let units: Vec<&Subgraph> = graph.units().iter().filter(whole).map(|unit| &unit.subgraph).collect();
    let between = part.nodes().iter().filter(|id| !units.iter().any(|unit| unit.contains(**id)));
    let between = between.map(|id| graph.subgraph_with_outputs([*id], vec![*id]));
    let mut left: Vec<Subgraph> = units.iter().map(|unit| (*unit).clone()).chain(between).collect();
    let mut known: HashSet<NodeId> = part.inputs().iter().copied().collect();
    let mut parts = Vec::new();
    while !left.is_empty() {
        let next = left.iter().position(|step| step.inputs().iter().all(|id| known.contains(id)))?;
        let step = left.swap_remove(next);
        known.extend(step.outputs());
        parts.push(step);
    }
    Some(parts)
}

/// A unit of the float network on the fused kernels.
#[derive(Clone)]
struct FusedUnit {
    unit: Arc<Mutex<FloatUnit>>,
    /// Channels, height and width of the output; fewer where it is flat.
    output: Vec<usize>,
    /// How input and output lie in memory.
    orders: [Order; 2],
}

impl FusedUnit {
    fn new(model: &QuantModel, part: &Subgraph) -> Result<Self, Rejected> {
        let chain = Chain::of_float(model, part)?;
        let output = chain.output_dims().to_vec();
        Ok(Self { unit: Arc::new(Mutex::new(FloatUnit::new(chain)?)), output, orders: [Order::Planes; 2] })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.contiguous()?.apply_op1(self.clone())?)
    }

    /// No panic leaves buffers in a state that the next pass would read.
    fn lock(&self) -> MutexGuard<'_, FloatUnit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CustomOp1 for FusedUnit {
    fn name(&self) -> &'static str {
        "float_unit"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, images) = (slice(x, layout)?, layout.dims()[0]);
        let mut unit = self.lock();
        let mut out = vec![0.0; images * unit.each()[1]];
        unit.forward(x, &mut out, self.orders);
        let mut dims = self.output.clone();
        if self.orders[1] == Order::ChannelsLast {
            dims.rotate_left(1);
        }
        Ok(output(out, [&[images], dims.as_slice()].concat()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut unit = self.lock();
        let pass = |dx: &mut [f32]| f32_values(x, |x| f32_values(&grad, |g| unit.backward(x, g, dx, self.orders)))?;
        gradient(x, pass).map(Some)
    }
}
