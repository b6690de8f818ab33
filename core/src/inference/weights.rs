//! The parameters of all layers, prepared once.

use crate::error::{Error, Result};
use crate::graph::geometry::convolution;
use crate::graph::{NodeId, Op};
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::nhwc::stage::Bounds;
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Packing};
use std::collections::HashMap;

/// A layer's weight, packed for its convolution.
pub struct LayerWeight {
    pub value: Buffer,
    pub bias: Option<Buffer>,
}

/// The weights of all layers, the bounds of all clips, and the factors and offsets of normalizations.
#[derive(Default)]
pub struct Weights {
    layers: HashMap<NodeId, LayerWeight>,
    bounds: HashMap<NodeId, Bounds>,
    affine: HashMap<NodeId, [Vec<f32>; 2]>,
}

impl Weights {
    pub fn new(model: &QuantModel, precision: Precision, nodes: &[NodeId]) -> Result<Self> {
        let graph = model.graph();
        let (mut layers, mut bounds, mut affine) = (HashMap::new(), HashMap::new(), HashMap::new());
        for id in nodes {
            if graph.node(*id).op == Op::Clip {
                bounds.insert(*id, Bounds::new(&model.bounds(*id)?));
            }
            if let Op::BatchNorm { .. } | Op::LayerNorm { .. } = graph.node(*id).op {
                let [factors, offsets] = crate::graph::affine(graph.node(*id), model.parameters())?;
                let values = |x: &Tensor| host_values(x, <[f32]>::to_vec);
                affine.insert(*id, [values(&factors)?, values(&offsets)?]);
            }
            let Some(shape) = convolution(graph, *id, 1) else { continue };
            let weight = model.weight(*id)?;
            let weight = match model.weight_site(*id).filter(|_| precision == Precision::Quantized) {
                Some(site) => site.quantizer.fake_quantize(weight)?,
                None => weight.clone(),
            };
            let value = host_values(&weight, |v| ForwardConvolution::weight(&shape, v))?;
            let packing = Packing::of(&shape);
            let bias = model.bias_at(*id, precision).map(|b| host_values(b, |v| packing.pack_lanes(v))).transpose()?;
            layers.insert(*id, LayerWeight { value, bias });
        }
        Ok(Self { layers, bounds, affine })
    }

    pub fn get(&self, node: NodeId) -> Result<&LayerWeight> {
        self.layers.get(&node).ok_or_else(|| Error::message("the forward pass: a weight was not prepared"))
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
