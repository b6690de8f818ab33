//! Forward passes on the kernels, with channels-last images and weights that are packed once.
//!
//! They compute the same values as [`QuantModel::run`], which computes node by node. On the CPU, kernels compute
//! convolutions, fully connected layers, activation functions, sums and products, pools, operations that move channels, and
//! quantizers that round to nearest. Candle computes every other operation, and every operation on other devices.

mod compile;
mod plan;
mod weights;

use crate::error::Result;
use crate::graph::Subgraph;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use plan::Plan;
use qdrop_kernels::in_pool;
use std::collections::BTreeMap;
use weights::{Sums, Weights};

/// Images that pass through all nodes as one chunk: enough to reuse the weights, and few enough for their values to
/// stay in the cache.
const TOGETHER: usize = 8;

/// A compiled part of a model, which computes its outputs for any number of inputs.
pub struct Inference<'a> {
    model: &'a QuantModel,
    precision: Precision,
    part: Subgraph,
    weights: Weights,
    /// Plans by the number of images.
    plans: BTreeMap<usize, Plan>,
}

impl<'a> Inference<'a> {
    /// Compiles a part of the network.
    ///
    /// # Errors
    /// A quantizer has no range, or a parameter is missing.
    pub fn new(model: &'a QuantModel, precision: Precision, part: Subgraph) -> Result<Self> {
        let weights = Weights::new(model, precision, &part)?;
        Ok(Self { model, precision, part, weights, plans: BTreeMap::new() })
    }

    /// Compiles the whole network.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of_network(model: &'a QuantModel, precision: Precision) -> Result<Self> {
        Self::new(model, precision, model.graph().whole())
    }

    /// The network's outputs for a batch of images (N, C, H, W).
    ///
    /// # Errors
    /// The images do not fit the network.
    pub fn forward(&mut self, images: &Tensor) -> Result<Vec<Tensor>> {
        self.model.check_input(images)?;
        self.run(std::slice::from_ref(images))
    }

    /// The outputs of the part for a batch of inputs (N, ...), both in the part's order.
    ///
    /// # Errors
    /// The inputs do not match, or an operation fails; the error names its node.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if !self.model.device().is_cpu() {
            let (model, precision, weights) = (self.model, self.precision, &self.weights);
            return self.part.run(model.graph(), inputs, |id, read| {
                model.value_of_sums(id, read, precision, weights.sums(id).map(Sums::layer))
            });
        }
        let graph = self.model.graph();
        let batch = self.part.check_inputs(graph, inputs.iter().map(Tensor::dims))?;
        let values = inputs.iter().map(|x| host_values(x, <[f32]>::to_vec)).collect::<candle_core::Result<Vec<_>>>()?;
        let shapes: Vec<Vec<usize>> =
            self.part.outputs().iter().map(|id| [&[batch], graph.node(*id).shape.as_slice()].concat()).collect();
        let mut outputs: Vec<Vec<f32>> = shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
        for first in (0..batch).step_by(TOGETHER) {
            let count = TOGETHER.min(batch - first);
            let (model, precision, weights) = (self.model, self.precision, &self.weights);
            let plan = match self.plans.entry(count) {
                std::collections::btree_map::Entry::Occupied(plan) => plan.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(compile::compile(model, precision, &self.part, weights, count)?)
                }
            };
            in_pool(|| plan.run(model, precision, weights, (&values, &mut outputs), first, batch))?;
        }
        outputs.into_iter().zip(shapes).map(|(v, shape)| Ok(Tensor::from_vec(v, shape, self.model.device())?)).collect()
    }
}
