//! Forward passes on the kernels, with channels-last images and weights that are prepared once.
//!
//! They compute the same values as [`QuantModel::run`], which computes node by node. Kernels of the CPU, or of a CUDA device,
//! compute convolutions, fully connected layers, activation functions, sums and products, pools, operations that move
//! channels, and quantizers that round to nearest. Candle computes every other operation.

mod compile;
mod cpu;
mod device;
mod program;
mod weights;

use crate::cuda::device::{Buffer, Device};
use crate::error::Result;
use crate::graph::geometry::convolution;
use crate::graph::{Graph, Subgraph};
use crate::model::{Precision, QuantModel};
use crate::ops::all_host_values;
use candle_core::Tensor;
use cpu::Cpu;
use device::OnDevice;
use qdrop_kernels::in_pool;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use weights::{Place, Weights};

/// Images that pass through all nodes as one chunk on the CPU: enough to reuse the weights, and few enough for their values to
/// stay in the cache.
const TOGETHER: usize = 8;
/// The same on a device: enough to keep it busy.
const TOGETHER_ON_DEVICE: usize = 64;

/// A compiled part of a model, which computes its outputs for any number of inputs. Images may have any size that the network
/// can take if its graph [says so](Graph::any_size), else they have that of its input.
pub struct Inference<'a> {
    model: &'a QuantModel,
    /// The model's graph with the shapes of the last inputs, where they differ.
    reshaped: Option<Graph>,
    precision: Precision,
    part: Subgraph,
    runs: Runs,
}

/// Prepared weights, and plans by the number of images of the last size.
struct Prepared<P: Place, Plan> {
    place: P,
    weights: Weights<P>,
    plans: BTreeMap<usize, Plan>,
}

/// What computes.
enum Runs {
    Cpu(Prepared<Cpu, cpu::Plan>),
    Device(Prepared<OnDevice, device::Plan>),
}

impl<P: Place, Plan> Prepared<P, Plan> {
    fn new(place: P, model: &QuantModel, precision: Precision, part: &Subgraph) -> Result<Self> {
        let weights = Weights::new(&place, (model, model.graph()), precision, part)?;
        Ok(Self { place, weights, plans: BTreeMap::new() })
    }

    /// Goes over to images of another size.
    fn reshape(
        &mut self,
        model: &QuantModel,
        [old, new]: [&Graph; 2],
        precision: Precision,
        part: &Subgraph,
    ) -> Result<()> {
        self.plans.clear();
        let shapes = |graph| part.nodes().iter().filter_map(move |id| convolution(graph, *id, 1));
        if !shapes(old).zip(shapes(new)).all(|(old, new)| self.place.fits(&old, &new)) {
            self.weights = Weights::new(&self.place, (model, new), precision, part)?;
        }
        Ok(())
    }
}

impl<'a> Inference<'a> {
    /// Compiles a part of the network for the model's device.
    ///
    /// # Errors
    /// A quantizer has no range, or a parameter is missing; the kernels of a GPU cannot be compiled, or its memory is too small.
    pub fn new(model: &'a QuantModel, precision: Precision, part: Subgraph) -> Result<Self> {
        match crate::cuda::of(model.device())? {
            Some(device) => Self::on(device, model, precision, part),
            None => {
                let runs = Runs::Cpu(Prepared::new(Cpu, model, precision, &part)?);
                Ok(Self { model, reshaped: None, precision, part, runs })
            }
        }
    }

    /// Compiles a part of the network for a CUDA device: a GPU where the model is, or one that computes with tensors of the CPU.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn on(device: Arc<dyn Device>, model: &'a QuantModel, precision: Precision, part: Subgraph) -> Result<Self> {
        let runs = Runs::Device(Prepared::new(OnDevice(device), model, precision, &part)?);
        Ok(Self { model, reshaped: None, precision, part, runs })
    }

    /// Compiles the whole network.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of_network(model: &'a QuantModel, precision: Precision) -> Result<Self> {
        Self::new(model, precision, model.graph().whole())
    }

    /// The outputs of the network's graph for a batch of images (N, C, H, W).
    ///
    /// # Errors
    /// The images do not fit the network.
    pub fn forward(&mut self, images: &Tensor) -> Result<Vec<Tensor>> {
        self.model.check_input(images)?;
        self.run(std::slice::from_ref(images))
    }

    /// Goes over to the shapes of these inputs, if the network takes images of any size.
    fn reshape(&mut self, inputs: &[Tensor]) -> Result<()> {
        let Self { model, reshaped, precision, part, runs } = self;
        let old = reshaped.as_ref().unwrap_or_else(|| model.graph());
        let shapes: Vec<&[usize]> = inputs.iter().map(|x| x.dims().get(1..).unwrap_or_default()).collect();
        let known = part.inputs().iter().map(|id| old.node(*id).shape.as_slice());
        if !model.graph().any_size() || known.eq(shapes.iter().copied()) || shapes.len() != part.inputs().len() {
            return Ok(());
        }
        let new = model.graph().reshaped(part, &shapes)?;
        match runs {
            Runs::Cpu(prepared) => prepared.reshape(model, [old, &new], *precision, part)?,
            Runs::Device(prepared) => prepared.reshape(model, [old, &new], *precision, part)?,
        }
        *reshaped = Some(new);
        Ok(())
    }

    /// The outputs of the part for a batch of inputs (N, ...), both in the part's order.
    ///
    /// # Errors
    /// The inputs do not match, or an operation fails; the error names its node.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.reshape(inputs)?;
        let Self { model, reshaped, precision, part, runs } = self;
        let (model, precision) = (*model, *precision);
        let graph = reshaped.as_ref().unwrap_or_else(|| model.graph());
        let batch = part.check_inputs(graph, inputs.iter().map(Tensor::dims))?;
        let shapes = part.outputs().iter().map(|id| [&[batch], graph.node(*id).shape.as_slice()].concat());
        let shapes: Vec<Vec<usize>> = shapes.collect();
        match runs {
            Runs::Cpu(Prepared { weights, plans, .. }) => {
                let mut outputs: Vec<_> = shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
                all_host_values(inputs, |values| -> Result<()> {
                    for first in (0..batch).step_by(TOGETHER) {
                        let count = TOGETHER.min(batch - first);
                        let plan = planned(plans, count, || {
                            Ok(cpu::Plan::new(compile::compile((model, graph), precision, part, weights, count, true)?))
                        })?;
                        in_pool(|| plan.run(model, precision, weights, (values, &mut outputs), first, batch))?;
                    }
                    Ok(())
                })??;
                let tensors = outputs.into_iter().zip(shapes);
                tensors.map(|(values, shape)| Ok(Tensor::from_vec(values, shape, model.device())?)).collect()
            }
            Runs::Device(Prepared { place: OnDevice(device), weights, plans }) => {
                let device = &**device;
                let outputs = shapes.iter().map(|shape| Buffer::zeros(device, shape.iter().product()));
                let outputs = outputs.collect::<Result<Vec<_>>>()?;
                for first in (0..batch).step_by(TOGETHER_ON_DEVICE) {
                    let count = TOGETHER_ON_DEVICE.min(batch - first);
                    let some = inputs.iter().map(|x| x.narrow(0, first, count));
                    let some = some.collect::<candle_core::Result<Vec<_>>>()?;
                    let plan = planned(plans, count, || {
                        let program = compile::compile((model, graph), precision, part, weights, count, false)?;
                        device::Plan::new(device, program, model.tf32())
                    })?;
                    plan.run(device, model, precision, weights, (&some, &outputs), first)?;
                }
                let tensors = outputs.iter().zip(&shapes);
                tensors.map(|(values, shape)| values.to_tensor(device, shape, model.device())).collect()
            }
        }
    }
}

/// The plan for this many images, which `make` makes if there is none.
fn planned<Plan>(
    plans: &mut BTreeMap<usize, Plan>,
    count: usize,
    make: impl FnOnce() -> Result<Plan>,
) -> Result<&mut Plan> {
    match plans.entry(count) {
        Entry::Occupied(plan) => Ok(plan.into_mut()),
        Entry::Vacant(place) => Ok(place.insert(make()?)),
    }
}
