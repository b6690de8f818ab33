//! The weights of all layers, packed once.

use crate::error::{Error, Result};
use crate::graph::geometry::convolution;
use crate::graph::NodeId;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Packing};
use std::collections::HashMap;

/// A layer's weight, packed for its convolution.
pub struct LayerWeight {
    pub value: Buffer,
    pub bias: Option<Buffer>,
}

/// The weights of all layers.
#[derive(Default)]
pub struct Weights(HashMap<NodeId, LayerWeight>);

impl Weights {
    pub fn new(model: &QuantModel, precision: Precision, nodes: &[NodeId]) -> Result<Self> {
        let graph = model.graph();
        let mut all = HashMap::new();
        for id in nodes {
            let Some(shape) = convolution(graph, *id, 1) else { continue };
            let weight = model.weight(*id)?;
            let weight = match model.weight_site(*id).filter(|_| precision == Precision::Quantized) {
                Some(site) => site.quantizer.fake_quantize(weight)?,
                None => weight.clone(),
            };
            let value = host_values(&weight, |v| ForwardConvolution::weight(&shape, v))?;
            let packing = Packing::of(&shape);
            let bias = model.bias(*id).map(|b| host_values(b, |v| packing.pack_lanes(v))).transpose()?;
            all.insert(*id, LayerWeight { value, bias });
        }
        Ok(Self(all))
    }

    pub fn get(&self, node: NodeId) -> Result<&LayerWeight> {
        self.0.get(&node).ok_or_else(|| Error::message("the forward pass: a weight was not prepared"))
    }
}
