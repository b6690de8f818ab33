//! A unit as a chain of layers, described independently of a device: the input of every fused engine.
//!
//! A chain begins with the unit's input. Each layer (convolution or fully connected layer) reads the value of the one
//! before it, or the mean over its pixels, and is followed by its stage: activation function, quantizer and drop. Before
//! the stage an earlier value of the chain, or a layer of it, may be added.

mod parts;
mod refusal;

pub use refusal::{Refusal, Rejected};

use super::variable::Variable;
use crate::error::{Error, Result};
use crate::graph::geometry::{convolution, image};
use crate::graph::{NodeId, Subgraph};
use crate::grid::{Granularity, QParams, QuantSpec};
use crate::model::{QuantModel, QuantSite};
use crate::ops::host_values;
use crate::quantizer::{Parameter, QuantizerKernel};
use candle_core::{Tensor, Var};
use parts::{Link, Parts};
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Function;
use std::collections::HashMap;

/// A unit as a chain of layers.
pub struct Chain {
    /// Channels, height and width of its input.
    pub input: [usize; 3],
    /// Channels, height and width of its output.
    pub output: [usize; 3],
    /// Whether the output is an image (N, C, H, W); otherwise it is flat (N, features).
    pub output_is_image: bool,
    /// Its layers, one at least.
    pub layers: Vec<ChainLayer>,
}

/// What is added to a layer's output.
pub struct ChainAddition {
    /// The layer whose value it is; `None` for the unit's input.
    pub from: Option<usize>,
    /// A convolution of that value, if it is not the value itself that is added.
    pub projection: Option<Box<ChainConvolution>>,
}

/// A layer and what comes after it.
pub struct ChainLayer {
    /// Whether it reads the mean over all pixels of the value before it.
    pub reads_mean: bool,
    pub convolution: ChainConvolution,
    pub added: Option<ChainAddition>,
    pub stage: ChainStage,
}

/// A convolution. A fully connected layer is a 1 x 1 convolution of an image of 1 x 1 pixels.
pub struct ChainConvolution {
    /// Its geometry for one image.
    pub shape: Conv2dShape,
    pub weight: ChainWeight,
    pub bias: Option<ChainBias>,
}

impl ChainConvolution {
    /// The same for this many images.
    pub fn of_batch(self, batch: usize) -> Self {
        Self { shape: Conv2dShape { batch, ..self.shape }, ..self }
    }

    /// Channels, height and width of its output.
    pub fn output(&self) -> [usize; 3] {
        [self.shape.out_channels, self.shape.out_height(), self.shape.out_width()]
    }
}

/// A weight (O, I / groups, KH, KW).
pub enum ChainWeight {
    /// A weight that is not learned.
    Fixed(Vec<f32>),
    /// A weight whose rounding is learned.
    SoftRounding(SoftRounding),
}

/// The learned rounding of a weight: `(clamp(floor + h(alpha) + zero_point, qmin, qmax) - zero_point) * scale`
/// (AdaRound, arXiv 2004.10568, equations 22 and 23).
pub struct SoftRounding {
    pub alpha: Variable,
    /// `floor(weight / scale)`, of the weight's shape.
    pub floor: Tensor,
    /// One for each output channel.
    pub scale: Vec<f32>,
    /// One for each output channel.
    pub zero_point: Vec<f32>,
    /// The variable of the scale, if it is learned too (Genie-M, arXiv 2212.04780, section 3.2): one element for each
    /// output channel, or a single one.
    pub learned_scale: Option<Variable>,
    pub qmin: f32,
    pub qmax: f32,
    /// Whether passes compute with hard roundings, and gradients with soft ones.
    pub straight_through: bool,
}

/// A bias with one element for each output channel.
pub struct ChainBias {
    pub value: Vec<f32>,
    pub learned: Option<Variable>,
}

/// An activation function and a quantizer, both optional.
pub struct ChainStage {
    /// A clip has one bound for each channel.
    pub activation: Option<Function<Vec<f32>>>,
    pub quantizer: Option<ChainQuantizer>,
    /// The site's number in the order of execution, from 1; 0 without a quantizer.
    pub site: usize,
}

/// A per-tensor quantizer that rounds to the nearest integer.
pub struct ChainQuantizer {
    pub spec: QuantSpec,
    pub scale: f32,
    pub zero_point: f32,
    pub learned_scale: Option<Variable>,
    /// The variable of the zero point, if it is learned; its gradient is the straight-through estimator's (LSQ+, arXiv
    /// 2004.09576).
    pub learned_zero_point: Option<Variable>,
}

impl Chain {
    /// Shape of the output of one sample.
    pub fn output_dims(&self) -> &[usize] {
        if self.output_is_image {
            &self.output
        } else {
            &self.output[..1]
        }
    }

    /// Whether there is one addition at most: at the end, and of the unit's input or a convolution of it.
    pub fn is_block(&self) -> bool {
        let last = self.layers.len().saturating_sub(1);
        self.layers.iter().enumerate().all(|(i, layer)| {
            let added = layer.added.as_ref().is_none_or(|added| i == last && added.from.is_none());
            added && !layer.reads_mean
        })
    }

    /// Describes a unit whose quantizers have begun to learn.
    pub fn of(model: &QuantModel, unit: &Subgraph) -> Result<Self, Rejected> {
        if !model.device().is_cpu() && !model.device().is_cuda() {
            return Err(Refusal::Device.into());
        }
        let parts = Parts::of(model.graph(), unit)?;
        let mut describer = Describer::new(model, unit)?;
        let chain = describer.chain(&parts)?;
        describer.check_all_known()?;
        Ok(chain)
    }

    /// Describes a part of the float network on the CPU, which learns nothing.
    pub fn of_float(model: &QuantModel, part: &Subgraph) -> Result<Self, Rejected> {
        if !model.device().is_cpu() {
            return Err(Refusal::Device.into());
        }
        Describer::of_float(model).chain(&Parts::of(model.graph(), part)?)
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

    fn chain(&mut self, parts: &Parts) -> Result<Chain, Rejected> {
        let graph = self.model.graph();
        let mut layers = Vec::new();
        for link in &parts.links {
            let convolution = self.convolution(link.node)?;
            let added = match &link.added {
                None => None,
                Some(added) => {
                    let operands = std::iter::once(link.node).chain(added.projection);
                    for node in operands {
                        if self.activation_site(node).is_some() {
                            return Err(Refusal::BeforeAddition { node: self.name(node) }.into());
                        }
                    }
                    let projection = added.projection.map(|node| self.convolution(node)).transpose()?;
                    Some(ChainAddition { from: added.from, projection: projection.map(Box::new) })
                }
            };
            layers.push(ChainLayer { reads_mean: link.reads_mean, convolution, added, stage: self.stage(link)? });
        }
        Ok(Chain {
            input: image(graph, parts.input),
            output: image(graph, parts.output),
            output_is_image: graph.node(parts.output).shape.len() == 3,
            layers,
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

    fn stage(&mut self, link: &Link) -> Result<ChainStage, Rejected> {
        let activation = link.activation.map(|f| f.try_map(|node| self.model.bounds(node))).transpose()?;
        let Some(placed) = self.activation_site(link.value) else {
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
        let site = self.sites.get(&link.value).copied().unwrap_or_default();
        Ok(ChainStage { activation, quantizer: Some(quantizer), site })
    }
}
