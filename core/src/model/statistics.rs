//! What batch normalization says about the outputs of layers over the training images.

use super::QuantModel;
use crate::error::{Error, Result};
use crate::graph::{folded_batch_norms, Graph, NodeId};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Mean and standard deviation of each channel that a layer computes, over the training images, as the batch normalization
/// knows them that was folded into the layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    /// The means.
    pub mean: Vec<f32>,
    /// The standard deviations; 0 where batch normalization multiplied by 0.
    pub deviation: Vec<f32>,
    /// How many times as large a difference was before batch normalization; 0 where batch normalization multiplied by 0.
    pub before: Vec<f32>,
}

/// The statistics that batch normalizations which can be folded have, by the names of the layers before them.
///
/// # Errors
/// A parameter is missing.
pub fn batch_norm_statistics(
    graph: &Graph,
    parameters: &HashMap<String, Tensor>,
) -> Result<HashMap<String, ChannelStatistics>> {
    let of = |(norm, layer, eps): (NodeId, NodeId, f64)| {
        let norm = &graph.node(norm).name;
        let vector = |own: &str| -> Result<Vec<f64>> {
            let key = format!("{norm}.{own}");
            let found = parameters.get(&key);
            let tensor = found.ok_or_else(|| Error::graph(norm, format!("has no parameter '{key}'")))?;
            Ok(tensor.to_dtype(DType::F64)?.to_vec1()?)
        };
        let (gamma, variance) = (vector("weight")?, vector("running_var")?);
        // The layer's output is multiplied by this.
        let factor = gamma.iter().zip(&variance).map(|(g, v)| g.abs() / (v + eps).sqrt());
        let factor: Vec<f64> = factor.map(|f| if (1.0 / f) < f64::from(f32::MAX) { f } else { 0.0 }).collect();
        let statistics = ChannelStatistics {
            mean: vector("bias")?.into_iter().map(|b| b as f32).collect(),
            deviation: factor.iter().zip(&variance).map(|(f, v)| (f * v.sqrt()) as f32).collect(),
            before: factor.iter().map(|f| if *f > 0.0 { (1.0 / f) as f32 } else { 0.0 }).collect(),
        };
        Ok((graph.node(layer).name.clone(), statistics))
    };
    folded_batch_norms(graph).into_iter().map(of).collect()
}

impl ChannelStatistics {
    /// Divides the channels by `factors`.
    fn divide(&mut self, factors: &[f64]) {
        for (c, factor) in factors.iter().enumerate() {
            let divided = |value: f32| (f64::from(value) / factor) as f32;
            (self.mean[c], self.deviation[c]) = (divided(self.mean[c]), divided(self.deviation[c]));
            self.before[c] = (f64::from(self.before[c]) * factor) as f32;
        }
    }
}

impl QuantModel {
    /// What batch normalization says about a layer's output, if one was folded into the layer.
    pub fn statistics(&self, layer: NodeId) -> Option<&ChannelStatistics> {
        self.statistics.get(&layer)
    }

    /// Takes the statistics of layers by their names. Those of layers that the network does not have are passed over.
    pub fn set_statistics(&mut self, statistics: impl IntoIterator<Item = (String, ChannelStatistics)>) {
        let known = statistics.into_iter().filter_map(|(layer, own)| Some((self.graph.find(&layer)?, own)));
        self.statistics = known.collect::<BTreeMap<_, _>>();
    }

    /// The channels that a layer computes are divided by `factors` from now on.
    pub(crate) fn divide_statistics(&mut self, layer: NodeId, factors: &[f64]) {
        if let Some(statistics) = self.statistics.get_mut(&layer) {
            statistics.divide(factors);
        }
    }

    /// The statistics of all layers as tensors, by the layers' names: means, deviations and factors.
    pub(crate) fn statistics_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |(layer, own): (&NodeId, &ChannelStatistics)| {
            let rows = [&own.mean[..], &own.deviation, &own.before].concat();
            let tensor = Tensor::from_vec(rows, (3, own.mean.len()), &self.device)?;
            Ok((self.graph.node(*layer).name.clone(), tensor))
        };
        self.statistics.iter().map(tensor).collect()
    }

    /// Restores a tensor of [`statistics_tensors`](Self::statistics_tensors).
    ///
    /// # Errors
    /// The layer has no statistics, or the shape differs.
    pub(crate) fn restore_statistics(&mut self, layer: NodeId, tensor: &Tensor) -> Result<()> {
        let rows: Vec<Vec<f32>> = tensor.to_vec2()?;
        let name = &self.graph.node(layer).name;
        match (self.statistics.get_mut(&layer), <[Vec<f32>; 3]>::try_from(rows)) {
            (Some(own), Ok([mean, deviation, before])) if own.mean.len() == mean.len() => {
                *own = ChannelStatistics { mean, deviation, before };
                Ok(())
            }
            _ => Err(Error::graph(name, "the saved statistics of its channels are not those of this layer")),
        }
    }
}
