//! What batch normalization says about the outputs of layers over the training images.

use super::QuantModel;
use crate::error::{Error, Result};
use crate::graph::{folded_batch_norms, Graph, NodeId};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// The statistics of each channel that a layer computes, over the training images, as the batch normalization knows them that
/// was folded into the layer. All have one value for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStatistics {
    /// The mean of the layer's output.
    pub mean: Vec<f32>,
    /// How many times as large a difference of two outputs was before batch normalization. 0 where batch normalization made
    /// them too small to be told from each other in f32.
    pub before: Vec<f32>,
    /// The standard deviation before batch normalization; 0 where `before` is 0.
    pub deviation: Vec<f32>,
}

/// Differences that rounding the mean to f32 hides by more than this share of the standard deviation are not told apart.
const HIDDEN: f64 = 1e-2;
/// A larger factor would not leave room for squares in f32.
const LARGEST: f64 = 1e18;

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
        let (gamma, beta, variance) = (vector("weight")?, vector("bias")?, vector("running_var")?);
        let mut own = ChannelStatistics { mean: Vec::new(), before: Vec::new(), deviation: Vec::new() };
        for ((gamma, beta), variance) in gamma.iter().zip(&beta).zip(&variance) {
            // The layer's output is multiplied by gamma over this.
            let deviation = (variance + eps).sqrt();
            let before = deviation / gamma.abs();
            let hidden = beta.abs() * f64::from(f32::EPSILON) / 2.0 * before > HIDDEN * deviation;
            let (before, deviation) =
                if hidden || before.is_nan() || before > LARGEST { (0.0, 0.0) } else { (before, variance.sqrt()) };
            own.mean.push(*beta as f32);
            own.before.push(before as f32);
            own.deviation.push(deviation as f32);
        }
        Ok((graph.node(layer).name.clone(), own))
    };
    folded_batch_norms(graph).into_iter().map(of).collect()
}

impl ChannelStatistics {
    /// Divides the channels by `factors`.
    fn divide(&mut self, factors: &[f64]) {
        for (c, factor) in factors.iter().enumerate() {
            self.mean[c] = (f64::from(self.mean[c]) / factor) as f32;
            self.before[c] = (f64::from(self.before[c]) * factor) as f32;
        }
    }
}

impl QuantModel {
    /// What batch normalization says about a layer's output, if one was folded into the layer.
    /// [`scale_channels`](crate::preparation::scale_channels) keeps it true; who changes a layer's output in another way
    /// [sets](Self::set_statistics) it too.
    pub fn statistics(&self, layer: NodeId) -> Option<&ChannelStatistics> {
        self.statistics.get(&layer)
    }

    /// Whether any layer has statistics.
    pub fn has_statistics(&self) -> bool {
        !self.statistics.is_empty()
    }

    /// Sets the statistics of layers, which come with the layers' names; those of other layers stay.
    ///
    /// # Errors
    /// There is no such layer, or it has another number of channels.
    pub fn set_statistics(&mut self, statistics: impl IntoIterator<Item = (String, ChannelStatistics)>) -> Result<()> {
        for (layer, own) in statistics {
            let Some(id) = self.graph.find(&layer) else {
                return Err(Error::graph(layer, "is not a layer of the network"));
            };
            let channels = self.graph.node(id).shape[0];
            let given = [own.mean.len(), own.before.len(), own.deviation.len()];
            if given != [channels; 3] {
                return Err(Error::graph(
                    layer,
                    format!("has {channels} channels, but statistics were given for {given:?}"),
                ));
            }
            self.statistics.insert(id, own);
        }
        Ok(())
    }

    /// The channels that a layer computes are divided by `factors` from now on.
    pub(crate) fn divide_statistics(&mut self, layer: NodeId, factors: &[f64]) {
        if let Some(statistics) = self.statistics.get_mut(&layer) {
            statistics.divide(factors);
        }
    }

    /// The statistics of all layers as tensors, by the layers' names; the rows are in the order of the fields.
    pub(crate) fn statistics_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |(layer, own): (&NodeId, &ChannelStatistics)| {
            let rows = [&own.mean[..], &own.before, &own.deviation].concat();
            let tensor = Tensor::from_vec(rows, (3, own.mean.len()), &self.device)?;
            Ok((self.graph.node(*layer).name.clone(), tensor))
        };
        self.statistics.iter().map(tensor).collect()
    }

    /// Restores a tensor of [`statistics_tensors`](Self::statistics_tensors).
    ///
    /// # Errors
    /// The shape differs.
    pub(crate) fn restore_statistics(&mut self, layer: NodeId, tensor: &Tensor) -> Result<()> {
        let name = self.graph.node(layer).name.clone();
        match <[Vec<f32>; 3]>::try_from(tensor.to_vec2::<f32>()?) {
            Ok([mean, before, deviation]) => {
                self.set_statistics([(name, ChannelStatistics { mean, before, deviation })])
            }
            Err(rows) => Err(Error::graph(name, format!("statistics of 3 rows are needed, not of {}", rows.len()))),
        }
    }
}
