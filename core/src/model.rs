//! A network with quantizers at its sites.

mod ends;
mod integer;
mod statistics;
mod sums;

use crate::error::{Error, Result, TensorContext};
use crate::graph::{execute, Graph, NodeId, Op, Replaced, Subgraph};
use crate::grid::QParams;
use crate::head::Head;
use crate::ops::{self, Keep};
use crate::quantizer::{groups, Parameter, Quantizer, QuantizerKernel};
use candle_core::{Device, Tensor, Var};
pub use integer::{ByteGrid, IntegerLayer, NotInteger, WeightCodes};
use qdrop_kernels::adaround;
pub use statistics::{batch_norm_statistics, ChannelStatistics};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
pub use sums::IntegerSums;

/// The precision of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Full precision (f32).
    Float,
    /// Quantized weights and activations.
    Quantized,
}

/// A quantizer at its site.
pub struct QuantSite {
    /// Name of the site.
    pub name: String,
    /// The quantizer.
    pub quantizer: Box<dyn Quantizer>,
}

/// A graph with its parameters and the quantizer at each site.
pub struct QuantModel {
    graph: Graph,
    parameters: HashMap<String, Tensor>,
    weights: BTreeMap<NodeId, QuantSite>,
    activations: BTreeMap<NodeId, QuantSite>,
    /// Biases of the quantized network that differ from those of the float network.
    corrected_biases: BTreeMap<NodeId, Tensor>,
    /// Biases that are being learned, by the names of their parameters.
    learned_biases: BTreeMap<String, Parameter>,
    /// What batch normalization says about the outputs of layers.
    statistics: BTreeMap<NodeId, ChannelStatistics>,
    device: Device,
    tf32: bool,
    head: Option<Arc<dyn Head>>,
}

impl QuantModel {
    /// A model without quantizers. `parameters` must hold all of the graph's parameters, and those of the head if it gets one.
    pub fn new(graph: Graph, parameters: HashMap<String, Tensor>, device: Device) -> Self {
        let (weights, activations, corrected_biases, learned_biases, statistics) = Default::default();
        Self {
            graph,
            parameters,
            weights,
            activations,
            corrected_biases,
            learned_biases,
            statistics,
            device,
            tf32: false,
            head: None,
        }
    }

    /// A copy without quantizers. Tensors are shared.
    pub fn float_copy(&self) -> Self {
        let mut copy = Self::new(self.graph.clone(), self.parameters.clone(), self.device.clone());
        (copy.tf32, copy.head) = (self.tf32, self.head.clone());
        copy.statistics = self.statistics.clone();
        copy
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether a GPU may compute the products of convolutions in TF32, which keeps 10 bits of a number's fraction.
    pub fn tf32(&self) -> bool {
        self.tf32
    }

    /// Allows TF32, or not: see [`tf32`](Self::tf32). By default it is not allowed.
    pub fn allow_tf32(&mut self, allowed: bool) {
        self.tf32 = allowed;
    }

    /// A parameter by its full name.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn parameter(&self, name: &str) -> Result<&Tensor> {
        self.parameters.get(name).ok_or_else(|| Error::message(format!("the model has no parameter '{name}'")))
    }

    /// All parameters by name.
    pub fn parameters(&self) -> &HashMap<String, Tensor> {
        &self.parameters
    }

    /// The weight of a node.
    ///
    /// # Errors
    /// The node has no weight.
    pub fn weight(&self, node: NodeId) -> Result<&Tensor> {
        self.parameter(&self.weight_name(node))
    }

    pub(crate) fn weight_name(&self, node: NodeId) -> String {
        format!("{}.weight", self.graph.node(node).name)
    }

    pub(crate) fn bias_name(&self, node: NodeId) -> String {
        format!("{}.bias", self.graph.node(node).name)
    }

    /// The name and the variable of a node's bias, if it is being learned.
    pub(crate) fn learned_bias(&self, node: NodeId) -> Option<(String, &Var)> {
        let name = self.bias_name(node);
        self.learned_biases.get(&name).map(|bias| (name, &bias.var))
    }

    /// The bias of a node, if it has one.
    pub fn bias(&self, node: NodeId) -> Option<&Tensor> {
        self.parameters.get(&self.bias_name(node))
    }

    /// The bounds of a clip, one for each channel.
    ///
    /// # Errors
    /// The node has no bounds, their number is not that of its channels, or one of them is not a positive number.
    pub(crate) fn bounds(&self, node: NodeId) -> Result<Vec<f32>> {
        let node = self.graph.node(node);
        let name = format!("{}.bound", node.name);
        ops::bounds(self.parameter(&name)?, node.shape[0]).doing(format!("reading '{name}'"))
    }

    /// The bias of a node in the network of this precision, if it has one.
    pub fn bias_at(&self, node: NodeId, precision: Precision) -> Option<&Tensor> {
        let corrected = self.corrected_biases.get(&node).filter(|_| precision == Precision::Quantized);
        corrected.or_else(|| self.bias(node))
    }

    /// Gives a layer another bias in the quantized network; the float network keeps its own. When the layer's unit begins
    /// to learn, and at the end of quantization, it becomes the layer's parameter.
    ///
    /// # Errors
    /// The layer has no bias, or the shape differs.
    pub fn correct_bias(&mut self, node: NodeId, bias: Tensor) -> Result<()> {
        let old = self.parameter(&self.bias_name(node))?.dims();
        if old != bias.dims() {
            return Err(Error::graph(self.bias_name(node), format!("has the shape {old:?}, not {:?}", bias.dims())));
        }
        self.corrected_biases.insert(node, bias);
        Ok(())
    }

    /// The biases of the quantized network that differ from those of the float network.
    pub fn corrected_biases(&self) -> impl Iterator<Item = (NodeId, &Tensor)> {
        self.corrected_biases.iter().map(|(node, bias)| (*node, bias))
    }

    /// Makes corrected biases the parameters of their layers, where the float network is not needed any more.
    pub(crate) fn settle_biases(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            if let Some(bias) = self.corrected_biases.remove(&node) {
                self.parameters.insert(self.bias_name(node), bias);
            }
        }
    }

    /// Replaces a node's weight.
    ///
    /// # Errors
    /// The shape differs from that of the old weight.
    pub fn set_weight(&mut self, node: NodeId, weight: Tensor) -> Result<()> {
        self.set_parameter(&self.weight_name(node), weight)
    }

    /// Replaces a parameter by its full name.
    ///
    /// # Errors
    /// There is no such parameter, or the shape differs.
    pub fn set_parameter(&mut self, name: &str, value: Tensor) -> Result<()> {
        let old = self.parameter(name)?.dims().to_vec();
        if old != value.dims() {
            return Err(Error::graph(name, format!("has the shape {old:?}, not {:?}", value.dims())));
        }
        self.parameters.insert(name.into(), value);
        Ok(())
    }

    /// Replaces an activation function by another operation on each element, with its parameters: pairs of a name within
    /// the node and a value. Names and shapes of values stay.
    ///
    /// # Errors
    /// The node or the new operation is something else, or the parameters are not those of the operation.
    pub fn replace_activation(&mut self, node: NodeId, op: Op, parameters: &[(&str, Tensor)]) -> Result<()> {
        let old = self.graph.node(node);
        let replaceable = |op: &Op| matches!(op, Op::Activation(_) | Op::Clip);
        if !replaceable(&old.op) || !replaceable(&op) {
            let message =
                format!("{} cannot be replaced by {}: both must be activation functions", old.op.name(), op.name());
            return Err(Error::graph(&old.name, message));
        }
        let wanted = op.parameters(&old.shape);
        let given: Vec<(&str, &[usize])> = parameters.iter().map(|(name, value)| (*name, value.dims())).collect();
        if wanted.len() != given.len() || wanted.iter().zip(&given).any(|(w, g)| w.0 != g.0 || w.1 != g.1) {
            let message = format!("{} has the parameters {wanted:?}, not {given:?}", op.name());
            return Err(Error::graph(&old.name, message));
        }
        let name = old.name.clone();
        for (own, _) in old.op.parameters(&old.shape) {
            self.parameters.remove(&format!("{name}.{own}"));
        }
        self.parameters.extend(parameters.iter().map(|(own, value)| (format!("{name}.{own}"), value.clone())));
        self.graph.set_op(node, op);
        Ok(())
    }

    /// Sets the quantizer of a node's weight.
    pub fn set_weight_quantizer(&mut self, node: NodeId, site: QuantSite) {
        self.weights.insert(node, site);
    }

    /// Sets the quantizer of a node's value.
    pub fn set_activation_quantizer(&mut self, node: NodeId, site: QuantSite) {
        self.activations.insert(node, site);
    }

    /// The quantizers of weights, by node.
    pub fn weight_sites(&self) -> impl Iterator<Item = (NodeId, &QuantSite)> {
        self.weights.iter().map(|(n, s)| (*n, s))
    }

    /// The quantizers of activations, by node.
    pub fn activation_sites(&self) -> impl Iterator<Item = (NodeId, &QuantSite)> {
        self.activations.iter().map(|(n, s)| (*n, s))
    }

    /// The quantizer of a node's weight.
    pub fn weight_site(&self, node: NodeId) -> Option<&QuantSite> {
        self.weights.get(&node)
    }

    /// The quantizer of a node's value.
    pub fn activation_site(&self, node: NodeId) -> Option<&QuantSite> {
        self.activations.get(&node)
    }

    pub(crate) fn weight_site_mut(&mut self, node: NodeId) -> Option<&mut QuantSite> {
        self.weights.get_mut(&node)
    }

    pub(crate) fn activation_site_mut(&mut self, node: NodeId) -> Option<&mut QuantSite> {
        self.activations.get_mut(&node)
    }

    /// The value of one node from the values of its inputs, before its activation quantizer.
    ///
    /// # Errors
    /// A shape does not fit, or an operation of candle fails; the error names the node.
    pub fn raw_value(&self, id: NodeId, inputs: &[&Tensor], precision: Precision) -> Result<Tensor> {
        let node = self.graph.node(id);
        let site = self.weights.get(&id).filter(|_| precision == Precision::Quantized);
        let weight = match site {
            Some(site) => Some(site.quantizer.fake_quantize(self.weight(id)?)?),
            None => None,
        };
        let corrected = self.corrected_biases.get(&id).filter(|_| precision == Precision::Quantized);
        execute(node, inputs, &self.parameters, Replaced { weight: weight.as_ref(), bias: corrected })
    }

    /// Computes the outputs of a part of the network from the values of its inputs (N, ...). Quantized layers are [sums of
    /// integers](Self::integer_sums) where they can be.
    ///
    /// # Errors
    /// The inputs do not match, or an operation fails; the error names its node.
    pub fn run(&self, part: &Subgraph, inputs: &[Tensor], precision: Precision) -> Result<Vec<Tensor>> {
        part.run(&self.graph, inputs, |id, read| {
            let sums = match precision {
                Precision::Quantized => self.integer_sums(id, part)?,
                Precision::Float => None,
            };
            self.value_of_sums(id, read, precision, sums.as_ref())
        })
    }

    /// The outputs of a unit with quantized weights and activations. `keep(i)` says which elements of
    /// activation site `i` (from 1, in the order of execution) keep their quantized value.
    pub(crate) fn unit_forward(
        &self,
        unit: &Subgraph,
        inputs: &[Tensor],
        keep: &dyn Fn(usize) -> Keep,
    ) -> Result<Vec<Tensor>> {
        let mut site = 0;
        unit.run(&self.graph, inputs, |id, read| {
            let value = self.raw_value(id, read, Precision::Quantized)?;
            let Some(quantizer) = self.activations.get(&id) else { return Ok(value) };
            site += 1;
            let quantized = quantizer.quantizer.fake_quantize(&value)?;
            ops::drop(&quantized, &value, &keep(site)).doing(format!("drop at '{}'", quantizer.name))
        })
    }

    /// Calls `visit` with each layer of a unit and its input, where weights are in full precision and activations are
    /// quantized.
    pub(crate) fn unit_layer_inputs(
        &self,
        unit: &Subgraph,
        inputs: &[Tensor],
        visit: &mut dyn FnMut(NodeId, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let run = unit.run(&self.graph, inputs, |id, read| {
            if let (true, Some(input)) = (self.graph.node(id).op.has_weight(), read.first()) {
                visit(id, input)?;
            }
            let value = self.raw_value(id, read, Precision::Float)?;
            match self.activations.get(&id) {
                Some(site) => Ok(site.quantizer.fake_quantize(&value)?.detach()),
                None => Ok(value),
            }
        });
        run.map(|_| ())
    }

    /// The outputs of a unit that learns as they would be if learning ended here, without gradients.
    pub(crate) fn unit_hard_forward(&self, unit: &Subgraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        unit.run(&self.graph, inputs, |id, read| {
            let weight = match self.weights.get(&id) {
                Some(site) => Some(site.quantizer.hard_weight(self.weight(id)?)?),
                None => None,
            };
            let replaced = Replaced { weight: weight.as_ref(), bias: self.corrected_biases.get(&id) };
            let value = execute(self.graph.node(id), read, &self.parameters, replaced)?.detach();
            match self.activations.get(&id) {
                Some(site) => Ok(site.quantizer.fake_quantize(&value)?.detach()),
                None => Ok(value),
            }
        })
    }

    /// The share of the learned soft roundings of `nodes` that are neither up nor down yet; `None` if there are none.
    pub(crate) fn unit_soft_share(&self, nodes: &[NodeId]) -> Result<Option<f64>> {
        let (mut soft, mut count) = (0, 0);
        for (_, site) in self.unit_sites(nodes) {
            if let Some(QuantizerKernel::SoftRounding { alpha, straight_through: false, .. }) =
                site.quantizer.kernel()?
            {
                count += alpha.elem_count();
                soft += ops::host_values(alpha.as_tensor(), adaround::unsettled)?;
            }
        }
        Ok((count > 0).then(|| soft as f64 / count as f64))
    }

    /// Makes the quantizers of `nodes` begin to learn. With `learn_bias` the biases of their layers become
    /// variables too.
    pub(crate) fn begin_reconstruction(&mut self, nodes: &[NodeId], learn_bias: bool) -> Result<()> {
        self.settle_biases(nodes.iter().copied());
        for id in nodes {
            let weight = self.parameters.get(&self.weight_name(*id));
            let learn_bias = learn_bias && self.graph.node(*id).op.has_weight();
            // A bias moves outputs as much as its channel's weights do: rates are relative to the largest of them.
            let largest = |w: &Tensor| w.abs()?.flatten_from(1)?.max(1);
            let size = weight.filter(|_| learn_bias).map(largest).transpose()?;
            if let (Some(site), Some(weight)) = (self.weights.get_mut(id), weight) {
                site.quantizer.begin_reconstruction(Some(weight))?;
            }
            if let Some(site) = self.activations.get_mut(id) {
                site.quantizer.begin_reconstruction(None)?;
            }
            let name = self.bias_name(*id);
            if let (true, Some(bias)) = (learn_bias, self.parameters.get(&name)) {
                // The parameter is the variable itself, so gradients reach it and updates take effect at once.
                let var = Var::from_tensor(bias)?;
                self.parameters.insert(name.clone(), var.as_tensor().clone());
                self.learned_biases.insert(name, Parameter { name: "bias", var, group: groups::BIAS, size });
            }
        }
        Ok(())
    }

    /// Ends learning in `nodes`. The hard weights and the learned biases become the model's parameters.
    pub(crate) fn finish_reconstruction(&mut self, nodes: &[NodeId]) -> Result<()> {
        for id in nodes {
            let name = self.weight_name(*id);
            if let (Some(site), Some(weight)) = (self.weights.get_mut(id), self.parameters.get_mut(&name)) {
                if let Some(hard) = site.quantizer.finish_reconstruction(Some(weight))? {
                    *weight = hard;
                }
            }
            if let Some(site) = self.activations.get_mut(id) {
                site.quantizer.finish_reconstruction(None)?;
            }
            let name = self.bias_name(*id);
            if let Some(bias) = self.learned_biases.remove(&name) {
                self.parameters.insert(name, bias.var.as_tensor().copy()?);
            }
        }
        Ok(())
    }

    /// Scales and zero points of the sites of `nodes`, by tensor name.
    pub(crate) fn grids(&self, nodes: &[NodeId]) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (kind, site) in self.unit_sites(nodes) {
            let params = site.quantizer.qparams()?;
            for (part, values) in [("scale", params.scale), ("zero_point", params.zero_point)] {
                tensors.insert(format!("{}.{kind}.{part}", site.name), Tensor::new(values, &self.device)?);
            }
        }
        Ok(tensors)
    }

    /// The parameters of `nodes` that reconstruction may change, by name: weights with a quantizer, and biases of
    /// layers.
    pub(crate) fn learned_parameters(&self, nodes: &[NodeId]) -> BTreeMap<String, Tensor> {
        let weights = nodes.iter().filter(|id| self.weights.contains_key(id)).map(|id| self.weight_name(*id));
        let biases = nodes.iter().filter(|id| self.graph.node(**id).op.has_weight()).map(|id| self.bias_name(*id));
        let named = |name: String| Some((name.clone(), self.parameters.get(&name)?.clone()));
        weights.chain(biases).filter_map(named).collect()
    }

    /// Restores what [`grids`](Self::grids) and [`learned_parameters`](Self::learned_parameters) returned.
    pub(crate) fn restore(&mut self, nodes: &[NodeId], tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let device = self.device.clone();
        for id in nodes {
            let weight = self.weights.get_mut(id).map(|s| ("weight", s));
            for (kind, site) in weight.into_iter().chain(self.activations.get_mut(id).map(|s| ("activation", s))) {
                site.quantizer.set_qparams(&saved_grid(tensors, &site.name, kind)?, &device)?;
            }
            for name in [self.weight_name(*id), self.bias_name(*id)] {
                if let Some(value) = tensors.get(&name) {
                    self.set_parameter(&name, value.clone())?;
                }
            }
        }
        Ok(())
    }

    fn unit_sites<'a>(&'a self, nodes: &'a [NodeId]) -> impl Iterator<Item = (&'static str, &'a QuantSite)> + 'a {
        nodes.iter().flat_map(|id| {
            let weight = self.weights.get(id).map(|s| ("weight", s));
            weight.into_iter().chain(self.activations.get(id).map(|s| ("activation", s)))
        })
    }

    pub(crate) fn unit_parameters(&self, nodes: &[NodeId]) -> Result<Vec<(String, Parameter)>> {
        let mut all = Vec::new();
        for (kind, site) in self.unit_sites(nodes) {
            let parameters = site.quantizer.parameters()?;
            all.extend(parameters.into_iter().map(|p| (format!("{}.{kind}.{}", site.name, p.name), p)));
        }
        for name in nodes.iter().map(|id| self.bias_name(*id)) {
            all.extend(self.learned_biases.get(&name).map(|bias| (name, bias.clone())));
        }
        Ok(all)
    }

    pub(crate) fn unit_regularizer(&self, nodes: &[NodeId], b: f32) -> Result<Option<Tensor>> {
        ops::total(self.unit_sites(nodes).filter_map(|(_, site)| site.quantizer.regularizer(b).transpose()))
    }
}

/// The grid of a site among the tensors of [`QuantModel::grids`]; `kind` is the [name](crate::graph::SiteKind::name) of its kind.
pub(crate) fn saved_grid(tensors: &BTreeMap<String, Tensor>, site: &str, kind: &str) -> Result<QParams> {
    let part = |part: &str| -> Result<Vec<f32>> {
        let name = format!("{site}.{kind}.{part}");
        let tensor = tensors.get(&name).ok_or_else(|| Error::message(format!("'{name}' is missing")))?;
        Ok(tensor.to_vec1()?)
    };
    Ok(QParams { scale: part("scale")?, zero_point: part("zero_point")? })
}
