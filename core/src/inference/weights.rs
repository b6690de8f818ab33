//! The parameters of all layers, prepared once.

use crate::error::{Error, Result};
use crate::graph::geometry::convolution;
use crate::graph::{NodeId, Op, Subgraph};
use crate::model::{IntegerSums, Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::nhwc::stage::Bounds;
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Packing};
use std::collections::HashMap;

/// A layer's weight, packed for its convolution.
pub struct LayerWeight {
    pub value: Buffer,
    /// None where sums of integers become values after the convolution.
    pub bias: Option<Buffer>,
}

/// How sums of integers become values.
pub struct Sums {
    layer: IntegerSums,
    /// The bias of each channel.
    bias: Vec<f32>,
}

impl Sums {
    /// The layer.
    pub fn layer(&self) -> &IntegerSums {
        &self.layer
    }

    /// The factor and the offset of each channel.
    pub fn affine(&self) -> [&[f32]; 2] {
        [&self.layer.scale, &self.bias]
    }
}

/// The layers of a part that are sums of integers.
fn sums(model: &QuantModel, precision: Precision, part: &Subgraph) -> Result<HashMap<NodeId, Sums>> {
    let mut sums = HashMap::new();
    for id in part.nodes().iter().filter(|_| precision == Precision::Quantized) {
        let Some(layer) = model.integer_sums(*id, part)? else { continue };
        let bias = match model.bias_at(*id, precision) {
            Some(bias) => host_values(bias, <[f32]>::to_vec)?,
            None => vec![0.0; layer.scale.len()],
        };
        sums.insert(*id, Sums { layer, bias });
    }
    Ok(sums)
}

/// The weights of all layers, those that are sums of integers, the bounds of all clips, and the factors and offsets of normalizations.
#[derive(Default)]
pub struct Weights {
    layers: HashMap<NodeId, LayerWeight>,
    sums: HashMap<NodeId, Sums>,
    bounds: HashMap<NodeId, Bounds>,
    affine: HashMap<NodeId, [Vec<f32>; 2]>,
}

impl Weights {
    pub fn new(model: &QuantModel, precision: Precision, part: &Subgraph) -> Result<Self> {
        let graph = model.graph();
        let mut this = Self { sums: sums(model, precision, part)?, ..Self::default() };
        if !model.device().is_cpu() {
            return Ok(this);
        }
        for id in part.nodes() {
            if graph.node(*id).op == Op::Clip {
                this.bounds.insert(*id, Bounds::new(&model.bounds(*id)?));
            }
            if let Op::BatchNorm { .. } | Op::LayerNorm { .. } = graph.node(*id).op {
                let [factors, offsets] = crate::graph::affine(graph.node(*id), model.parameters())?;
                let values = |x: &Tensor| host_values(x, <[f32]>::to_vec);
                this.affine.insert(*id, [values(&factors)?, values(&offsets)?]);
            }
            let Some(shape) = convolution(graph, *id, 1) else { continue };
            let sums = this.sums.get(id);
            let weight = model.weight(*id)?;
            let weight = match (sums, model.weight_site(*id).filter(|_| precision == Precision::Quantized)) {
                (Some(sums), _) => sums.layer.weight.clone(),
                (None, Some(site)) => site.quantizer.fake_quantize(weight)?,
                (None, None) => weight.clone(),
            };
            let value = host_values(&weight, |v| ForwardConvolution::weight(&shape, v))?;
            let packing = Packing::of(&shape);
            let bias = model.bias_at(*id, precision).filter(|_| sums.is_none());
            let bias = bias.map(|b| host_values(b, |v| packing.pack_lanes(v))).transpose()?;
            this.layers.insert(*id, LayerWeight { value, bias });
        }
        Ok(this)
    }

    pub fn get(&self, node: NodeId) -> Result<&LayerWeight> {
        self.layers.get(&node).ok_or_else(|| Error::message("the forward pass: a weight was not prepared"))
    }

    /// How the sums of a layer become values, if they are sums of integers.
    pub fn sums(&self, node: NodeId) -> Option<&Sums> {
        self.sums.get(&node)
    }

    /// The factors and the offsets of a normalization.
    pub fn affine(&self, node: NodeId) -> Result<&[Vec<f32>; 2]> {
        self.affine.get(&node).ok_or_else(|| Error::message("the forward pass: a normalization was not prepared"))
    }

    /// The bounds of a clip.
    pub fn bounds(&self, node: NodeId) -> Result<&Bounds> {
        self.bounds.get(&node).ok_or_else(|| Error::message("the forward pass: a clip was not prepared"))
    }
}
