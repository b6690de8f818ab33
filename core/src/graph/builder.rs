//! The interface with which an architecture describes its network.

use super::{CustomOperator, Graph, Node, NodeId, Op, Operator};
use crate::error::{Error, Result};
use crate::ops::{Activation, Conv2dGeometry, Padding, Pool2dGeometry};
use qdrop_kernels::conv::Conv2dShape;
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
            padding: [0; 2],
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
        self.0.padding = [pixels; 2];
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
        let node = Node { name: "input".into(), op: Op::Input, inputs: Vec::new(), shape: input.to_vec() };
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

    fn push(&mut self, name: &str, op: Op, inputs: &[NodeId], shape: Vec<usize>) -> Result<NodeId> {
        if name.is_empty() || !self.names.insert(name.into()) {
            return Err(Error::graph(name, "a node of this name exists already; names are unique and not empty"));
        }
        if shape.contains(&0) {
            return Err(Error::graph(
                name,
                format!("its value would be empty: {shape:?}; is the input image too small?"),
            ));
        }
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.into(), shape });
        Ok(NodeId(self.nodes.len() - 1))
    }

    fn image(&self, name: &str, value: NodeId) -> Result<[usize; 3]> {
        self.shape(value).try_into().map_err(|_| {
            Error::graph(name, format!("needs an image (C, H, W), but its input has the shape {:?}", self.shape(value)))
        })
    }

    /// Convolution; parameters `<name>.weight` and, with a bias, `<name>.bias`.
    ///
    /// # Errors
    /// The geometry does not fit the input.
    pub fn conv2d(&mut self, name: &str, x: NodeId, conv: Conv2d) -> Result<NodeId> {
        let [in_channels, in_height, in_width] = self.image(name, x)?;
        let Conv2d { out_channels, kernel, geometry, bias } = conv;
        let shape = Conv2dShape {
            batch: 1,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel,
            stride: geometry.stride,
            padding: geometry.padding,
            dilation: geometry.dilation,
            groups: geometry.groups,
        };
        shape.validate().map_err(|e| Error::graph(name, e))?;
        let op = Op::Conv2d { out_channels, kernel, geometry, bias };
        self.push(name, op, &[x], vec![out_channels, shape.out_height(), shape.out_width()])
    }

    /// Fully connected layer with bias; parameters `<name>.weight` and `<name>.bias`.
    ///
    /// # Errors
    /// The input is not flat.
    pub fn linear(&mut self, name: &str, x: NodeId, out_features: usize) -> Result<NodeId> {
        if self.shape(x).len() != 1 {
            let message = format!("needs a flat input, not one of shape {:?}; add flatten", self.shape(x));
            return Err(Error::graph(name, message));
        }
        self.push(name, Op::Linear { out_features, bias: true }, &[x], vec![out_features])
    }

    /// Batch normalization; parameters weight, bias, running_mean, running_var.
    ///
    /// # Errors
    /// The name is taken.
    pub fn batch_norm(&mut self, name: &str, x: NodeId, eps: f64) -> Result<NodeId> {
        let shape = self.shape(x).to_vec();
        self.push(name, Op::BatchNorm { eps }, &[x], shape)
    }

    /// An activation function.
    ///
    /// # Errors
    /// The name is taken.
    pub fn activation(&mut self, name: &str, x: NodeId, activation: Activation) -> Result<NodeId> {
        let shape = self.shape(x).to_vec();
        self.push(name, Op::Activation(activation), &[x], shape)
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
        let shape = self.shape(x).to_vec();
        self.push(name, Op::Clip, &[x], shape)
    }

    /// Sum of two values.
    ///
    /// # Errors
    /// Their shapes differ.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId> {
        if self.shape(a) != self.shape(b) {
            return Err(Error::graph(name, format!("cannot add {:?} and {:?}", self.shape(a), self.shape(b))));
        }
        let shape = self.shape(a).to_vec();
        self.push(name, Op::Add, &[a, b], shape)
    }

    /// Product of two values. `b` may have height and width 1, as in squeeze-and-excitation.
    ///
    /// # Errors
    /// `b` does not broadcast to `a`.
    pub fn mul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId> {
        let (sa, sb) = (self.shape(a).to_vec(), self.shape(b).to_vec());
        let fits = sa.len() == sb.len() && sa.iter().zip(&sb).all(|(a, b)| a == b || *b == 1);
        if !fits {
            return Err(Error::graph(name, format!("cannot multiply {sa:?} by {sb:?}")));
        }
        self.push(name, Op::Mul, &[a, b], sa)
    }

    fn pool(&mut self, name: &str, x: NodeId, pool: Pool2d, max: bool) -> Result<NodeId> {
        let [channels, height, width] = self.image(name, x)?;
        let shape = pool.0.of_planes(channels, height, width).map_err(|e| Error::graph(name, e))?;
        let op = if max { Op::MaxPool(pool.0) } else { Op::AveragePool(pool.0) };
        self.push(name, op, &[x], vec![channels, shape.out_height(), shape.out_width()])
    }

    /// Max pooling.
    ///
    /// # Errors
    /// The window does not fit the image.
    pub fn max_pool(&mut self, name: &str, x: NodeId, pool: Pool2d) -> Result<NodeId> {
        self.pool(name, x, pool, true)
    }

    /// Average pooling.
    ///
    /// # Errors
    /// The window does not fit the image.
    pub fn average_pool(&mut self, name: &str, x: NodeId, pool: Pool2d) -> Result<NodeId> {
        self.pool(name, x, pool, false)
    }

    /// Mean over height and width: the result is (C, 1, 1).
    ///
    /// # Errors
    /// The input is not an image.
    pub fn global_average_pool(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        let [channels, ..] = self.image(name, x)?;
        self.push(name, Op::GlobalAveragePool, &[x], vec![channels, 1, 1])
    }

    /// Zero padding.
    ///
    /// # Errors
    /// The input is not an image.
    pub fn pad(&mut self, name: &str, x: NodeId, padding: Padding) -> Result<NodeId> {
        let [channels, height, width] = self.image(name, x)?;
        let [height, width] = padding.padded(height, width);
        self.push(name, Op::Pad(padding), &[x], vec![channels, height, width])
    }

    /// Concatenation along the channels.
    ///
    /// # Errors
    /// Dimensions other than the channels differ.
    pub fn concat(&mut self, name: &str, values: &[NodeId]) -> Result<NodeId> {
        let shapes: Vec<&[usize]> = values.iter().map(|v| self.shape(*v)).collect();
        let first = shapes.first().copied().unwrap_or_default();
        if first.is_empty() || shapes.iter().any(|s| s.get(1..) != first.get(1..)) {
            return Err(Error::graph(name, format!("cannot concatenate {shapes:?} along the channels")));
        }
        let mut shape = first.to_vec();
        shape[0] = shapes.iter().map(|s| s[0]).sum();
        self.push(name, Op::Concat, values, shape)
    }

    /// Flattens all dimensions but the batch into one.
    ///
    /// # Errors
    /// The name is taken.
    pub fn flatten(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        let features = self.shape(x).iter().product();
        self.push(name, Op::Flatten, &[x], vec![features])
    }

    /// Enlargement by repeating pixels.
    ///
    /// # Errors
    /// The input is not an image.
    pub fn upsample_nearest(&mut self, name: &str, x: NodeId, factor: [usize; 2]) -> Result<NodeId> {
        let [channels, height, width] = self.image(name, x)?;
        let shape = vec![channels, height * factor[0], width * factor[1]];
        self.push(name, Op::UpsampleNearest { factor }, &[x], shape)
    }

    /// An operation that the architecture defines itself.
    ///
    /// # Errors
    /// The operator does not accept the inputs.
    pub fn operator(&mut self, name: &str, operator: impl Operator + 'static, inputs: &[NodeId]) -> Result<NodeId> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|i| self.shape(*i)).collect();
        let operator = CustomOperator::new(operator, &shapes).map_err(|e| Error::graph(name, e))?;
        let shape = operator.shape().to_vec();
        self.push(name, Op::Custom(operator), inputs, shape)
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
