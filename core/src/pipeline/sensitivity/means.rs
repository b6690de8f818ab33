//! The means of layers' outputs, which quantized layers keep.

use super::super::Resources;
use super::{batches, Part};
use crate::cache::CachedValues;
use crate::error::Result;
use crate::graph::{Graph, NodeId, Subgraph};
use crate::model::{Precision, QuantModel};
use crate::ops::add_channel_sums;
use candle_core::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// The means of each channel that the layers of a part compute, those with a bias, in the order of execution.
#[derive(Default)]
pub struct Means {
    first: Option<NodeId>,
    layers: Vec<(NodeId, Vec<f64>)>,
}

impl Means {
    /// Those of the float network.
    pub fn of_float(
        model: &QuantModel,
        part: &Part,
        front: &HashMap<NodeId, Arc<CachedValues>>,
        resources: &Resources<'_>,
    ) -> Result<Self> {
        let Some(first) = part.nodes.first().copied() else { return Ok(Self::default()) };
        let layers: Vec<NodeId> = part.nodes.iter().copied().filter(|id| model.bias(*id).is_some()).collect();
        let to_layers = up_to(model.graph(), first, &layers);
        let means = channel_means((model, Precision::Float), &to_layers, front, resources)?;
        Ok(Self { first: Some(first), layers: layers.into_iter().zip(means).collect() })
    }

    /// Gives each layer the bias with which its outputs have these means, one after the other.
    pub fn restore(
        &self,
        variant: &mut QuantModel,
        front: &HashMap<NodeId, Arc<CachedValues>>,
        resources: &Resources<'_>,
    ) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        for (layer, wanted) in &self.layers {
            let to_layer = up_to(variant.graph(), first, &[*layer]);
            let own = channel_means((variant, Precision::Quantized), &to_layer, front, resources)?;
            let own = own.iter().flatten();
            let shift: Vec<f32> = wanted.iter().zip(own).map(|(wanted, own)| (wanted - own) as f32).collect();
            if let Some(bias) = variant.bias(*layer) {
                let corrected = (bias + Tensor::from_vec(shift, bias.shape(), bias.device())?)?;
                variant.correct_bias(*layer, corrected)?;
            }
        }
        Ok(())
    }
}

/// The nodes from `first` on that these layers need, with the layers' values as outputs.
fn up_to(graph: &Graph, first: NodeId, layers: &[NodeId]) -> Subgraph {
    let last = layers.last().copied().unwrap_or(first);
    let nodes = graph.nodes().map(|(id, _)| id).filter(|id| *id >= first && *id <= last);
    graph.subgraph_with_outputs(nodes, layers.to_vec())
}

/// The mean of each channel of each of the part's outputs, over all images.
fn channel_means(
    network: (&QuantModel, Precision),
    part: &Subgraph,
    front: &HashMap<NodeId, Arc<CachedValues>>,
    resources: &Resources<'_>,
) -> Result<Vec<Vec<f64>>> {
    let mut sums: Vec<(Vec<f64>, usize)> = vec![(Vec::new(), 0); part.outputs().len()];
    batches(network, part, front, resources, |_, values| {
        for (value, (sums, count)) in values.iter().zip(&mut sums) {
            *count += add_channel_sums(value, sums)?;
        }
        Ok(())
    })?;
    let mean = |(sums, count): (Vec<f64>, usize)| sums.into_iter().map(|sum| sum / count.max(1) as f64).collect();
    Ok(sums.into_iter().map(mean).collect())
}
