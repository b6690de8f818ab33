//! The parameters of all layers, prepared once for the device that computes.

use crate::error::{Error, Result};
use crate::graph::geometry::convolution;
use crate::graph::{Graph, NodeId, Op, Subgraph};
use crate::model::{IntegerSums, Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::Layout;
use std::collections::HashMap;

/// Where parameters are kept, and how.
pub trait Place {
    /// The weight and the bias of a layer.
    type Layer;
    /// One number for each channel.
    type Vector;
    /// The bounds of a clip.
    type Bounds;

    /// Keeps a weight (O, I / groups, KH, KW).
    ///
    /// # Errors
    /// There is not enough memory.
    fn layer(&self, shape: &Conv2dShape, weight: &[f32], bias: Option<&[f32]>) -> Result<Self::Layer>;

    /// Whether a weight that is kept for one convolution serves another one, of images of another size.
    fn fits(&self, known: &Conv2dShape, other: &Conv2dShape) -> bool {
        let _ = (known, other);
        true
    }

    /// Keeps one number for each channel.
    ///
    /// # Errors
    /// There is not enough memory.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;

    /// Keeps the bounds of a clip.
    ///
    /// # Errors
    /// There is not enough memory.
    fn bounds(&self, values: &[f32]) -> Result<Self::Bounds>;
}

/// A layer that is sums of integers, and how these become values.
pub struct Sums<V> {
    pub layer: IntegerSums,
    /// The factor and the offset of each channel; the offsets are the bias.
    pub affine: [V; 2],
}

/// The weights of all layers, those that are sums of integers, the bounds of all clips, and the factors and offsets of normalizations.
pub struct Weights<P: Place> {
    layers: HashMap<NodeId, P::Layer>,
    sums: HashMap<NodeId, Sums<P::Vector>>,
    bounds: HashMap<NodeId, P::Bounds>,
    affine: HashMap<NodeId, [P::Vector; 2]>,
}

impl<P: Place> Weights<P> {
    /// Prepares the weights of a part. `graph` is the model's, with the shapes of the values that are computed.
    pub fn new(
        place: &P,
        (model, graph): (&QuantModel, &Graph),
        precision: Precision,
        part: &Subgraph,
    ) -> Result<Self> {
        let (layers, sums, bounds, affine) = Default::default();
        let mut this = Self { layers, sums, bounds, affine };
        let values = |x: &Tensor| host_values(x, <[f32]>::to_vec);
        for id in part.nodes() {
            if graph.node(*id).op == Op::Clip {
                this.bounds.insert(*id, place.bounds(&model.bounds(*id)?)?);
            }
            if let Op::BatchNorm { .. } | Op::LayerNorm { .. } = graph.node(*id).op {
                let [factors, offsets] = crate::graph::affine(graph.node(*id), model.parameters())?;
                this.affine.insert(*id, [place.vector(values(&factors)?)?, place.vector(values(&offsets)?)?]);
            }
            if !graph.node(*id).op.has_weight() {
                continue;
            }
            let bias = model.bias_at(*id, precision).map(values).transpose()?;
            let quantized = precision == Precision::Quantized;
            let sums = if quantized { model.integer_sums(*id, part)? } else { None };
            if let Some(shape) = convolution(graph, *id, 1) {
                let weight = model.weight(*id)?;
                let weight = match (&sums, model.weight_site(*id).filter(|_| quantized)) {
                    (Some(sums), _) => sums.weight.clone(),
                    (None, Some(site)) => site.quantizer.fake_quantize(weight)?,
                    (None, None) => weight.clone(),
                };
                let bias = bias.as_deref().filter(|_| sums.is_none());
                this.layers.insert(*id, host_values(&weight, |weight| place.layer(&shape, weight, bias))??);
            }
            if let Some(layer) = sums {
                let offsets = bias.unwrap_or_else(|| vec![0.0; layer.scale.len()]);
                let affine = [place.vector(layer.scale.clone())?, place.vector(offsets)?];
                this.sums.insert(*id, Sums { layer, affine });
            }
        }
        Ok(this)
    }

    /// Whether a node is a layer whose weight was prepared.
    pub fn has_layer(&self, node: NodeId) -> bool {
        self.layers.contains_key(&node)
    }

    /// A layer's weight.
    pub fn layer(&self, node: NodeId) -> Result<&P::Layer> {
        self.layers.get(&node).ok_or_else(|| broken("a weight was not prepared"))
    }

    /// A layer as sums of integers, if it is computed so.
    pub fn find_sums(&self, node: NodeId) -> Option<&Sums<P::Vector>> {
        self.sums.get(&node)
    }

    /// A layer that is sums of integers.
    pub fn sums(&self, node: NodeId) -> Result<&Sums<P::Vector>> {
        self.find_sums(node).ok_or_else(|| broken("sums of integers were not prepared"))
    }

    /// The factors and the offsets of a normalization.
    pub fn affine(&self, node: NodeId) -> Result<&[P::Vector; 2]> {
        self.affine.get(&node).ok_or_else(|| broken("a normalization was not prepared"))
    }

    /// The bounds of a clip.
    pub fn bounds(&self, node: NodeId) -> Result<&P::Bounds> {
        self.bounds.get(&node).ok_or_else(|| broken("a clip was not prepared"))
    }

    /// The value of a node through candle.
    pub fn value_of(
        &self,
        model: &QuantModel,
        precision: Precision,
        node: NodeId,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        model.value_of_sums(node, &inputs, precision, self.find_sums(node).map(|sums| &sums.layer))
    }
}

/// A value after its node's quantizer, through candle.
pub fn quantized(model: &QuantModel, node: NodeId, value: &Tensor) -> Result<Tensor> {
    let site = model.activation_site(node).ok_or_else(|| broken("a quantizer is missing"))?;
    site.quantizer.fake_quantize(value)
}

/// The shape of a node's value for images of this layout, which may be larger or smaller than the graph says.
pub fn shape_of(model: &QuantModel, node: NodeId, layout: Layout) -> Vec<usize> {
    match model.graph().node(node).shape.len() {
        3 => vec![layout.batch, layout.channels, layout.height, layout.width],
        _ => vec![layout.batch, layout.channels],
    }
}

pub fn broken(what: &str) -> Error {
    Error::message(format!("the forward pass: {what}"))
}
