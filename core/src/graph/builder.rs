//! The interface with which an architecture describes its network.

use super::{CustomOperator, Graph, Node, NodeId, Op, Operator, Placement};
use crate::error::{Error, Result};
use crate::ops::{Activation, Conv2dGeometry, Padding, Pool2dGeometry};
use std::collections::HashSet;

/// A convolution's settings: `Conv2d::new(64, 7).stride(2).padding(3)`.
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    out_channels: usize,
    kernel: [usize; 2],
    geometry: Conv2dGeometry,
    bias: bool,
}

impl Conv2d {
    /// A convolution with a square kernel, stride 1, no padding, one group and no bias.
    pub fn new(out_channels: usize, kernel: usize) -> Self {
        Self { out_channels, kernel: [kernel; 2], geometry: Conv2dGeometry::default(), bias: false }
    }

    /// Sets kernel height and width.
    pub fn kernel(mut self, height: usize, width: usize) -> Self {
        self.kernel = [height, width];
        self
    }

    /// Sets the vertical and the horizontal stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.geometry.stride = [stride; 2];
        self
    }

    /// Sets the padding of all four sides.
    pub fn padding(mut self, pixels: usize) -> Self {
        self.geometry.padding = Padding::all(pixels);
        self
    }

    /// Sets the padding of each side.
    pub fn padding_sides(mut self, padding: Padding) -> Self {
        self.geometry.padding = padding;
        self
    }

    /// Sets the vertical and the horizontal dilation.
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.geometry.dilation = [dilation; 2];
        self
    }

    /// Sets the number of groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.geometry.groups = groups;
        self
    }

    /// Adds a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }
}

/// A pooling operation's settings: `Pool2d::new(3).stride(2).padding(1)`.
#[derive(Debug, Clone, Copy)]
pub struct Pool2d(Pool2dGeometry);

impl Pool2d {
    /// A square window with a stride of its own size, without padding; averages count padding pixels.
    pub fn new(kernel: usize) -> Self {
        Self(Pool2dGeometry {
            kernel: [kernel; 2],
            stride: [kernel; 2],
            padding: Padding::default(),
            ceil_mode: false,
            count_include_pad: true,
        })
    }

    /// Sets the vertical and the horizontal stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.0.stride = [stride; 2];
        self
    }

    /// Sets the padding of all four sides.
    pub fn padding(mut self, pixels: usize) -> Self {
        self.0.padding = Padding::all(pixels);
        self
    }

    /// Sets the padding of each side.
    pub fn padding_sides(mut self, padding: Padding) -> Self {
        self.0.padding = padding;
        self
    }

    /// Whether windows may end beyond the padded image.
    pub fn ceil_mode(mut self, on: bool) -> Self {
        self.0.ceil_mode = on;
        self
    }

    /// Whether padding pixels count in the divisor of an average.
    pub fn count_include_pad(mut self, on: bool) -> Self {
        self.0.count_include_pad = on;
        self
    }
}

/// Builds a [`Graph`] node by node, checking shapes on the way.
///
/// ```
/// # use qdrop_core::prelude::*;
/// # fn main() -> Result<()> {
/// let mut b = GraphBuilder::new([3, 32, 32]);
/// let x = b.input();
/// let x = b.unit("stem", |b| {
///     let x = b.conv2d("conv1", x, Conv2d::new(16, 3).padding(1))?;
///     let x = b.batch_norm("bn1", x, 1e-5)?;
///     b.relu("relu1", x)
/// })?;
/// let x = b.global_average_pool("pool", x)?;
/// let x = b.flatten("flatten", x)?;
/// let x = b.unit("fc", |b| b.linear("fc", x, 10))?;
/// let graph = b.finish(x)?;
/// assert_eq!(graph.node(graph.outputs()[0]).shape, [10]);
/// # Ok(())
/// # }
/// ```
pub struct GraphBuilder {
    nodes: Vec<Node>,
    names: HashSet<String>,
    units: Vec<(String, Vec<NodeId>)>,
    in_unit: Option<String>,
}

impl GraphBuilder {
    /// Begins a graph whose input has the given shape: channels, height, width.
    pub fn new(input: [usize; 3]) -> Self {
        let node = Node {
            name: "input".into(),
            op: Op::Input,
            inputs: Vec::new(),
            shape: input.to_vec(),
            placement: Placement::ByRule,
        };
        Self { nodes: vec![node], names: HashSet::from(["input".into()]), units: Vec::new(), in_unit: None }
    }

    /// The network's input.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of a value without the batch dimension.
    pub fn shape(&self, value: NodeId) -> &[usize] {
        &self.nodes[value.0].shape
    }

    /// Channels (or features) of a value.
    pub fn channels(&self, value: NodeId) -> usize {
        self.shape(value).first().copied().unwrap_or_default()
    }

    /// Any operation.
    ///
    /// # Errors
    /// The name is taken or empty, or the operation does not accept the inputs, see [`Op::shape`].
    pub fn node(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId> {
        if let Some(later) = inputs.iter().find(|input| input.0 >= self.nodes.len()) {
            return Err(Error::graph(name, format!("reads value {}, which is not there yet", later.0)));
        }
        let shapes: Vec<&[usize]> = inputs.iter().map(|i| self.shape(*i)).collect();
        let shape = op.shape(&shapes).map_err(|e| Error::graph(name, e))?;
        if name.is_empty() || !self.names.insert(name.into()) {
            return Err(Error::graph(name, "a node of this name exists already; names are unique and not empty"));
        }
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.into(), shape, placement: Placement::ByRule });
        Ok(NodeId(self.nodes.len() - 1))
    }

    /// Convolution; parameters `<name>.weight` and, with a bias, `<name>.bias`.
    ///
    /// # Errors
    /// The geometry does not fit the input.
    pub fn conv2d(&mut self, name: &str, x: NodeId, conv: Conv2d) -> Result<NodeId> {
        let Conv2d { out_channels, kernel, geometry, bias } = conv;
        self.node(name, Op::Conv2d { out_channels, kernel, geometry, bias }, &[x])
    }

    /// Fully connected layer with bias; parameters `<name>.weight` and `<name>.bias`.
    ///
    /// # Errors
    /// The input is not flat.
    pub fn linear(&mut self, name: &str, x: NodeId, out_features: usize) -> Result<NodeId> {
        self.node(name, Op::Linear { out_features, bias: true }, &[x])
    }

    /// Batch normalization; parameters weight, bias, running_mean, running_var.
    ///
    /// # Errors
    /// The name is taken.
    pub fn batch_norm(&mut self, name: &str, x: NodeId, eps: f64) -> Result<NodeId> {
        self.node(name, Op::BatchNorm { eps }, &[x])
    }

    /// Normalization over the channels of each pixel; parameters weight and bias.
    ///
    /// # Errors
    /// The name is taken.
    pub fn layer_norm(&mut self, name: &str, x: NodeId, eps: f64) -> Result<NodeId> {
        self.node(name, Op::LayerNorm { eps }, &[x])
    }

    /// An activation function.
    ///
    /// # Errors
    /// The name is taken.
    pub fn activation(&mut self, name: &str, x: NodeId, activation: Activation) -> Result<NodeId> {
        self.node(name, Op::Activation(activation), &[x])
    }

    /// `max(x, 0)`.
    ///
    /// # Errors
    /// The name is taken.
    pub fn relu(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.activation(name, x, Activation::Relu)
    }

    /// `min(max(x, 0), 6)`.
    ///
    /// # Errors
    /// The name is taken.
    pub fn relu6(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.activation(name, x, Activation::Relu6)
    }

    /// `min(max(x, 0), bound)` with one bound for each channel (or feature of a flat value); parameter `<name>.bound`, whose
    /// elements are positive.
    ///
    /// # Errors
    /// The name is taken.
    pub fn clip(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.node(name, Op::Clip, &[x])
    }

    /// Sum of two values.
    ///
    /// # Errors
    /// Their shapes differ.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId> {
        self.node(name, Op::Add, &[a, b])
    }

    /// Product of two values. `b` may have height and width 1, as in squeeze-and-excitation.
    ///
    /// # Errors
    /// `b` does not broadcast to `a`.
    pub fn mul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId> {
        self.node(name, Op::Mul, &[a, b])
    }

    /// Max pooling.
    ///
    /// # Errors
    /// The window does not fit the image.
    pub fn max_pool(&mut self, name: &str, x: NodeId, pool: Pool2d) -> Result<NodeId> {
        self.node(name, Op::MaxPool(pool.0), &[x])
    }

    /// Average pooling.
    ///
    /// # Errors
    /// The window does not fit the image.
    pub fn average_pool(&mut self, name: &str, x: NodeId, pool: Pool2d) -> Result<NodeId> {
        self.node(name, Op::AveragePool(pool.0), &[x])
    }

    /// Mean over height and width: the result is (C, 1, 1).
    ///
    /// # Errors
    /// The input is not an image.
    pub fn global_average_pool(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.node(name, Op::GlobalAveragePool, &[x])
    }

    /// Zero padding.
    ///
    /// # Errors
    /// The input is not an image.
    pub fn pad(&mut self, name: &str, x: NodeId, padding: Padding) -> Result<NodeId> {
        self.node(name, Op::Pad(padding), &[x])
    }

    /// Concatenation along the channels.
    ///
    /// # Errors
    /// Dimensions other than the channels differ.
    pub fn concat(&mut self, name: &str, values: &[NodeId]) -> Result<NodeId> {
        self.node(name, Op::Concat, values)
    }

    /// Some of the channels, one after the other, beginning with `start`.
    ///
    /// # Errors
    /// There are fewer channels.
    pub fn slice(&mut self, name: &str, x: NodeId, start: usize, count: usize) -> Result<NodeId> {
        self.node(name, Op::Slice { start, count }, &[x])
    }

    /// Reads the channels, as rows of `groups` groups, column by column (ShuffleNet, arXiv 1707.01083, figure 1).
    ///
    /// # Errors
    /// The input is not an image, or the groups do not divide its channels.
    pub fn shuffle_channels(&mut self, name: &str, x: NodeId, groups: usize) -> Result<NodeId> {
        self.node(name, Op::ShuffleChannels { groups }, &[x])
    }

    /// Flattens all dimensions but the batch into one.
    ///
    /// # Errors
    /// The name is taken.
    pub fn flatten(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.node(name, Op::Flatten, &[x])
    }

    /// Enlargement by repeating pixels.
    ///
    /// # Errors
    /// The input is not an image.
    pub fn upsample_nearest(&mut self, name: &str, x: NodeId, factor: [usize; 2]) -> Result<NodeId> {
        self.node(name, Op::UpsampleNearest { factor }, &[x])
    }

    /// An operation that the architecture defines itself.
    ///
    /// # Errors
    /// The operator does not accept the inputs.
    pub fn operator(&mut self, name: &str, operator: impl Operator + 'static, inputs: &[NodeId]) -> Result<NodeId> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|i| self.shape(*i)).collect();
        let operator = CustomOperator::new(operator, &shapes).map_err(|e| Error::graph(name, e))?;
        self.node(name, Op::Custom(operator), inputs)
    }

    /// Says whether the value of a node, or of the layer that it begins, has a quantizer. By default the
    /// [rules](super::quantization_sites) decide.
    pub fn place(&mut self, node: NodeId, placement: Placement) {
        self.nodes[node.0].placement = placement;
    }

    /// Makes the nodes that `body` adds one unit of block reconstruction. The unit must read at least one value from
    /// outside and compute at least one that is read outside.
    ///
    /// # Errors
    /// Units are nested, or `body` fails.
    pub fn unit<R>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        if let Some(outer) = &self.in_unit {
            return Err(Error::graph(name, format!("units do not nest, but this one is inside '{outer}'")));
        }
        self.in_unit = Some(name.into());
        let first = self.nodes.len();
        let result = body(self);
        self.in_unit = None;
        let nodes = (first..self.nodes.len()).map(NodeId).collect();
        self.units.push((name.into(), nodes));
        result
    }

    /// Makes nodes that exist already one unit of block reconstruction.
    pub fn unit_of(&mut self, name: &str, nodes: impl IntoIterator<Item = NodeId>) {
        self.units.push((name.into(), nodes.into_iter().collect()));
    }

    /// Number of nodes so far, with the input.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Finishes the graph of a network with one output.
    ///
    /// # Errors
    /// A unit reads no value from outside, or nothing outside reads a value of it.
    pub fn finish(self, output: NodeId) -> Result<Graph> {
        self.finish_with_outputs(&[output])
    }

    /// Finishes the graph of a network with several outputs.
    ///
    /// # Errors
    /// There is no output; a unit reads no value from outside, or nothing outside reads a value of it.
    pub fn finish_with_outputs(self, outputs: &[NodeId]) -> Result<Graph> {
        Graph::new(self.nodes, outputs.to_vec(), self.units)
    }
}
