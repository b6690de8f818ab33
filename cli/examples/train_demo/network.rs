//! A network whose parameters are trained.

use crate::normalization::{statistics, BatchNormOp};
use crate::SEED;
use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use qdrop_core::graph::{execute, Graph, Op};
use qdrop_core::random::{stream, Purpose};
use std::collections::HashMap;

/// PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// The learning rate at a step: linear for 200 steps, and a cosine to 0 at the last one.
pub fn learning_rate(highest: f64, step: usize, steps: usize) -> f64 {
    let warm = ((step + 1) as f64 / 200.0).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
    highest * warm * cosine
}

/// A graph with parameters that can be trained.
pub struct Network {
    pub graph: Graph,
    pub parameters: HashMap<String, Var>,
}

impl Network {
    /// Random weights (He et al., arXiv 1502.01852); batch normalization begins as the identity. Networks of another `part` get
    /// other weights.
    pub fn new(graph: Graph, part: u32) -> Result<Self> {
        let mut parameters = HashMap::new();
        for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = if shape.len() > 1 {
                let fan_in: usize = shape[1..].iter().product();
                let bound = (6.0 / fan_in as f64).sqrt();
                let random = stream(SEED, Purpose::Calibration, i as u32, part);
                (0..n).map(|j| ((random.uniform(j) * 2.0 - 1.0) * bound) as f32).collect()
            } else {
                // The weight of a batch normalization has one dimension too.
                let one = name.ends_with("running_var") || name.ends_with("weight");
                vec![if one { 1.0 } else { 0.0 }; n]
            };
            parameters.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?);
        }
        Ok(Self { graph, parameters })
    }

    /// The parameters that an optimizer changes.
    pub fn trainable(&self) -> Vec<Var> {
        let mut named: Vec<_> = self.parameters.iter().filter(|(n, _)| !n.contains("running")).collect();
        named.sort_by_key(|(n, _)| n.as_str());
        named.into_iter().map(|(_, v)| v.clone()).collect()
    }

    /// All parameters, with the statistics of batch normalization.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// The graph's outputs.
    pub fn forward(&self, images: &Tensor, training: bool) -> Result<Vec<Tensor>> {
        let tensors: HashMap<String, Tensor> =
            self.parameters.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect();
        let mut values = vec![images.clone()];
        for (_, node) in self.graph.nodes().skip(1) {
            let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i.index()]).collect();
            let value = match node.op {
                Op::BatchNorm { eps } if training => self.normalize(&node.name, inputs[0], eps)?,
                _ => execute(node, &inputs, &tensors, Default::default())?,
            };
            values.push(value);
        }
        Ok(self.graph.outputs().iter().map(|output| values[output.index()].clone()).collect())
    }

    /// Normalizes with the batch's statistics and updates the running ones.
    fn normalize(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        let var = |own: &str| &self.parameters[&format!("{name}.{own}")];
        let (n, _, h, w) = x.dims4()?;
        let (mean, variance) = statistics(x)?;
        let count = (n * h * w) as f64;
        for (own, new, factor) in [("running_mean", &mean, 1.0), ("running_var", &variance, count / (count - 1.0))] {
            let old = var(own).as_detached_tensor();
            let new = Tensor::new(new.as_slice(), &Device::Cpu)?;
            var(own).set(&((old * (1.0 - MOMENTUM))? + (new * (MOMENTUM * factor))?)?)?;
        }
        let op = BatchNormOp { mean, inverse: variance.iter().map(|v| 1.0 / (v + eps as f32).sqrt()).collect() };
        Ok(x.contiguous()?.apply_op3(var("weight").as_tensor(), var("bias").as_tensor(), op)?)
    }
}
