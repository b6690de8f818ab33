//! A unit as a chain of steps, described independently of a device: the input of every fused engine.
//!
//! A chain begins with the unit's input. Each step reads earlier values of the chain, any of them, and is followed by its stage:
//! activation function, quantizer and drop. A value may have several readers, whose gradients are added. The value of the last
//! step is the unit's output.

mod block;
mod description;
mod operation;
mod parts;
mod refusal;
mod sizes;

pub use block::{Block, Shortcut};
pub use description::{
    Chain, ChainAffine, ChainBias, ChainConvolution, ChainQuantizer, ChainStage, ChainStep, ChainWeight, SoftRounding,
};
pub use operation::Operation;
pub use refusal::{Refusal, Rejected};
pub use sizes::{AnySize, ChainSizes, StepSizes};

use super::variable::Variable;
use crate::error::{Error, Result};
use crate::graph::geometry::{convolution, image};
use crate::graph::{affine, NodeId, Subgraph};
use crate::grid::{Granularity, QParams};
use crate::model::{QuantModel, QuantSite};
use crate::ops::host_values;
use crate::quantizer::{Parameter, QuantizerKernel};
use candle_core::{Tensor, Var};
use parts::{name, Part, Parts};
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Function;
use std::collections::HashMap;

impl Chain {
    /// Describes a unit whose quantizers have begun to learn.
    pub fn of(model: &QuantModel, unit: &Subgraph) -> Result<Self, Rejected> {
        if !model.device().is_cpu() && !model.device().is_cuda() {
            return Err(Refusal::Device.into());
        }
        let parts = Parts::of(model.graph(), unit, &|id| model.activation_site(id).is_some())?;
        let mut describer = Describer::new(model, unit)?;
        let chain = describer.chain(parts)?;
        describer.check_all_known()?;
        Ok(chain)
    }

    /// Describes a part of the float network on the CPU, which learns nothing.
    pub fn of_float(model: &QuantModel, part: &Subgraph) -> Result<Self, Rejected> {
        if !model.device().is_cpu() {
            return Err(Refusal::Device.into());
        }
        Describer::of_float(model).chain(Parts::of(model.graph(), part, &|_| false)?)
    }
}

/// Builds the description of a unit from its parts.
struct Describer<'a> {
    model: &'a QuantModel,
    /// Whether values are quantized and parameters learned.
    quantized: bool,
    /// Learned parameters that are not yet part of the description.
    parameters: Vec<(String, Parameter)>,
    /// Activation sites, numbered in the order of execution.
    sites: HashMap<NodeId, usize>,
}

impl<'a> Describer<'a> {
    fn new(model: &'a QuantModel, unit: &Subgraph) -> Result<Self> {
        let sites = unit.nodes().iter().filter(|id| model.activation_site(**id).is_some());
        let sites = sites.enumerate().map(|(i, id)| (*id, i + 1)).collect();
        Ok(Self { model, quantized: true, parameters: model.unit_parameters(unit.nodes())?, sites })
    }

    fn of_float(model: &'a QuantModel) -> Self {
        Self { model, quantized: false, parameters: Vec::new(), sites: HashMap::new() }
    }

    fn activation_site(&self, node: NodeId) -> Option<&'a QuantSite> {
        self.model.activation_site(node).filter(|_| self.quantized)
    }

    fn name(&self, node: NodeId) -> String {
        self.model.graph().node(node).name.clone()
    }

    /// Takes the parameter of a variable out of those not yet described.
    fn variable(&mut self, var: &Var, node: &str) -> Result<Variable> {
        let found = self.parameters.iter().position(|(_, p)| p.var.as_tensor().id() == var.as_tensor().id());
        let place = found.ok_or_else(|| {
            Error::graph(node, "the kernel of a quantizer learns a variable that its `parameters` do not name")
        })?;
        let (name, parameter) = self.parameters.swap_remove(place);
        Ok(Variable::new(name, parameter))
    }

    fn check_all_known(mut self) -> Result<(), Refusal> {
        match self.parameters.pop() {
            Some((parameter, _)) => Err(Refusal::UnknownParameter { parameter }),
            None => Ok(()),
        }
    }

    fn chain(&mut self, parts: Parts) -> Result<Chain, Rejected> {
        let graph = self.model.graph();
        let Parts { input, output, parts } = parts;
        Ok(Chain {
            input: image(graph, input),
            output: image(graph, output),
            output_is_image: graph.node(output).shape.len() == 3,
            steps: parts.into_iter().map(|part| self.step(part)).collect::<Result<_, _>>()?,
        })
    }

    fn step(&mut self, part: Part) -> Result<ChainStep, Rejected> {
        let (graph, model) = (self.model.graph(), self.model);
        let affine = || -> Result<ChainAffine, Rejected> {
            let [factors, offsets] = affine(graph.node(part.node), model.parameters())?;
            let [factors, offsets] = [factors, offsets].map(|x| host_values(&x, <[f32]>::to_vec));
            Ok(ChainAffine { factors: factors?, offsets: offsets? })
        };
        let stage = self.stage(part.activation, part.value)?;
        Ok(ChainStep {
            name: name(graph, part.node),
            size: image(graph, part.node),
            reads: part.reads,
            operation: part.operation.try_map(|()| self.convolution(part.node), |()| affine())?,
            stage,
        })
    }

    fn convolution(&mut self, node: NodeId) -> Result<ChainConvolution, Rejected> {
        let shape = convolution(self.model.graph(), node, 1);
        let shape = shape.ok_or_else(|| Refusal::LargeKernel { node: self.name(node) })?;
        let weight = self.weight(node, &shape)?;
        let value = self.model.bias(node).map(|b| host_values(b, <[f32]>::to_vec)).transpose()?;
        let learned = match self.model.learned_bias(node).filter(|_| self.quantized) {
            Some((_, var)) => Some(self.variable(&var.clone(), &self.name(node))?),
            None => None,
        };
        Ok(ChainConvolution { shape, weight, bias: value.map(|value| ChainBias { value, learned }) })
    }

    fn weight(&mut self, node: NodeId, shape: &Conv2dShape) -> Result<ChainWeight, Rejected> {
        let model = self.model;
        let (name, tensor) = (self.name(node), model.weight(node)?);
        let fixed =
            |x: &Tensor| -> Result<ChainWeight, Rejected> { Ok(ChainWeight::Fixed(host_values(x, <[f32]>::to_vec)?)) };
        let Some(placed) = model.weight_site(node).filter(|_| self.quantized) else { return fixed(tensor) };
        let spec = *placed.quantizer.spec();
        match placed.quantizer.kernel()? {
            Some(QuantizerKernel::Nearest) => fixed(&placed.quantizer.fake_quantize(tensor)?),
            Some(QuantizerKernel::SoftRounding { alpha, floor, scale, straight_through }) => {
                let QParams { scale: scales, zero_point } = placed.quantizer.qparams()?;
                let channels = shape.out_channels;
                let (scales, zero_point) = match spec.granularity {
                    Granularity::PerTensor => (vec![scales[0]; channels], vec![zero_point[0]; channels]),
                    Granularity::PerAxis(0) => (scales, zero_point),
                    Granularity::PerAxis(_) => return Err(Refusal::WeightAxis { node: name }.into()),
                };
                let alpha = self.variable(&alpha, &name)?;
                if alpha.size.is_some() {
                    return Err(Refusal::RelativeRounding { node: name }.into());
                }
                Ok(ChainWeight::SoftRounding(SoftRounding {
                    alpha,
                    floor,
                    scale: scales,
                    zero_point,
                    learned_scale: scale.map(|scale| self.variable(&scale, &name)).transpose()?,
                    qmin: spec.qmin(),
                    qmax: spec.qmax(),
                    straight_through,
                }))
            }
            Some(QuantizerKernel::LearnedScale { .. } | QuantizerKernel::LearnedScaleAndZeroPoint { .. }) | None => {
                Err(Refusal::WeightQuantizer { node: name }.into())
            }
        }
    }

    fn stage(&mut self, activation: Option<Function<NodeId>>, value: NodeId) -> Result<ChainStage, Rejected> {
        let activation = activation.map(|f| f.try_map(|node| self.model.bounds(node))).transpose()?;
        let Some(placed) = self.activation_site(value) else {
            return Ok(ChainStage { activation, quantizer: None, site: 0 });
        };
        let (spec, name) = (*placed.quantizer.spec(), &placed.name);
        if spec.granularity != Granularity::PerTensor {
            return Err(Refusal::ActivationPerChannel { node: name.clone() }.into());
        }
        let (scale, zero_point) = match placed.quantizer.kernel()? {
            Some(QuantizerKernel::Nearest) => (None, None),
            Some(QuantizerKernel::LearnedScale { scale }) => (Some(scale), None),
            Some(QuantizerKernel::LearnedScaleAndZeroPoint { scale, zero_point }) => (Some(scale), Some(zero_point)),
            Some(QuantizerKernel::SoftRounding { .. }) | None => {
                return Err(Refusal::ActivationQuantizer { node: name.clone() }.into());
            }
        };
        let params = placed.quantizer.qparams()?;
        let quantizer = ChainQuantizer {
            spec,
            scale: params.scale[0],
            zero_point: params.zero_point[0],
            learned_scale: scale.map(|var| self.variable(&var, name)).transpose()?,
            learned_zero_point: zero_point.map(|var| self.variable(&var, name)).transpose()?,
        };
        let site = self.sites.get(&value).copied().unwrap_or_default();
        Ok(ChainStage { activation, quantizer: Some(quantizer), site })
    }
}
