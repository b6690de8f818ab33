//! Forward passes on the kernels: convolutions with what follows them, channels lying together, weights packed
//! once.
//!
//! It computes what [`QuantModel::node_value`] computes node by node. On the CPU convolutions, fully connected
//! layers, activation functions, additions and quantizers that round to nearest run on the kernels of the fused
//! step; every other operation, and every operation on other devices, goes through the tensor library.

mod compile;
mod plan;

use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use compile::Weights;
use plan::Plan;
use qdrop_kernels::in_pool;
use std::collections::{BTreeMap, HashMap};

/// Images that pass through all nodes together: enough to use weights several times, and few enough for their
/// values to stay in the cache.
const TOGETHER: usize = 8;

/// Some nodes of a model, ready to compute their values for any number of images.
pub struct Inference<'a> {
    model: &'a QuantModel,
    precision: Precision,
    nodes: Vec<NodeId>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    weights: Weights,
    /// By the number of images.
    plans: BTreeMap<usize, Plan>,
}

impl<'a> Inference<'a> {
    /// Prepares the computation of `outputs` from `inputs` by `nodes`, which are in topological order.
    ///
    /// # Errors
    /// A quantizer has no range, or a parameter is missing.
    pub fn new(
        model: &'a QuantModel,
        precision: Precision,
        nodes: &[NodeId],
        inputs: &[NodeId],
        outputs: &[NodeId],
    ) -> Result<Self> {
        let weights = if model.device().is_cpu() { Weights::new(model, precision, nodes)? } else { Weights::default() };
        Ok(Self {
            model,
            precision,
            nodes: nodes.to_vec(),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            weights,
            plans: BTreeMap::new(),
        })
    }

    /// Prepares the whole network.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_network(model: &'a QuantModel, precision: Precision) -> Result<Self> {
        let graph = model.graph();
        let nodes: Vec<NodeId> = graph.nodes().skip(1).map(|(id, _)| id).collect();
        Self::new(model, precision, &nodes, &[graph.input()], &[graph.output()])
    }

    /// The network's output for a batch of images (N, C, H, W).
    ///
    /// # Errors
    /// The images do not fit the network.
    pub fn forward(&mut self, images: &Tensor) -> Result<Tensor> {
        self.model.check_input(images)?;
        let output = self.run(&[images])?.pop();
        output.ok_or_else(|| Error::message("the network computed no output"))
    }

    /// The outputs for a batch of inputs, in the order in which they were named.
    ///
    /// # Errors
    /// The inputs do not fit the nodes; the tensor library's, with the node's name.
    pub fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        if !self.model.device().is_cpu() {
            return self.run_in_tensors(inputs);
        }
        let graph = self.model.graph();
        let batch = inputs.first().map_or(0, |x| x.dims().first().copied().unwrap_or_default());
        let shape = |id: NodeId| [&[batch], graph.node(id).shape.as_slice()].concat();
        for (id, x) in self.inputs.iter().zip(inputs) {
            if x.dims() != shape(*id) {
                let message = format!("has the shape {:?} where {:?} is expected", x.dims(), shape(*id));
                return Err(Error::graph(&graph.node(*id).name, message));
            }
        }
        let values = inputs.iter().map(|x| host_values(x, <[f32]>::to_vec)).collect::<candle_core::Result<Vec<_>>>()?;
        let mut outputs: Vec<Vec<f32>> = self.outputs.iter().map(|id| vec![0.0; shape(*id).iter().product()]).collect();
        for first in (0..batch).step_by(TOGETHER) {
            let count = TOGETHER.min(batch - first);
            let plan = match self.plans.entry(count) {
                std::collections::btree_map::Entry::Occupied(plan) => plan.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => place.insert(compile::compile(
                    self.model,
                    self.precision,
                    (&self.nodes, &self.inputs, &self.outputs),
                    &self.weights,
                    count,
                )?),
            };
            let (model, precision, weights) = (self.model, self.precision, &self.weights);
            in_pool(|| plan.run(model, precision, weights, (&values, &mut outputs), first, batch))?;
        }
        let ids = self.outputs.iter();
        ids.zip(outputs).map(|(id, v)| Ok(Tensor::from_vec(v, shape(*id), self.model.device())?)).collect()
    }

    /// The same through the tensor library alone.
    fn run_in_tensors(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let graph = self.model.graph();
        let mut values: HashMap<NodeId, Tensor> =
            self.inputs.iter().zip(inputs).map(|(id, x)| (*id, (*x).clone())).collect();
        for id in &self.nodes {
            let inputs: Vec<&Tensor> = graph.node(*id).inputs.iter().filter_map(|i| values.get(i)).collect();
            let value = self.model.node_value(*id, &inputs, self.precision)?;
            for input in &graph.node(*id).inputs {
                let done = !self.nodes.iter().any(|n| n > id && graph.node(*n).inputs.contains(input));
                if done && !self.outputs.contains(input) {
                    values.remove(input);
                }
            }
            values.insert(*id, value);
        }
        let missing = |id: &NodeId| Error::graph(&graph.node(*id).name, "was not computed");
        self.outputs.iter().map(|id| values.get(id).cloned().ok_or_else(|| missing(id))).collect()
    }
}
