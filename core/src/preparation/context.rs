//! What a preparation works on.

use crate::cache::CachedValues;
use crate::error::{Error, Result};
use crate::graph::{quantization_sites, NodeId, Site};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::Progress;
use candle_core::Tensor;
use std::collections::HashMap;

/// Images that pass through the network at once.
const BATCH: usize = 16;

/// Makes a calibrated copy of a float network, quantized as the recipe says, with the ranges that observers give (not refined
/// ones).
pub type Calibrated<'a> = &'a dyn Fn(&QuantModel) -> Result<QuantModel>;

/// The float network that a preparation changes, with images to measure it on.
pub struct Preparing<'a> {
    /// The float network, without quantizers and with batch normalization folded.
    pub model: &'a mut QuantModel,
    images: &'a CachedValues,
    calibrated: Calibrated<'a>,
    progress: &'a dyn Progress,
}

impl<'a> Preparing<'a> {
    /// Prepares `model` with some calibration images (N, C, H, W).
    pub fn new(
        model: &'a mut QuantModel,
        images: &'a CachedValues,
        calibrated: Calibrated<'a>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { model, images, calibrated, progress }
    }

    /// Number of images.
    pub fn image_count(&self) -> usize {
        self.images.samples()
    }

    /// Where values and weights will be quantized.
    pub fn sites(&self) -> Vec<Site> {
        quantization_sites(self.model.graph())
    }

    /// A copy of the network as it is now, calibrated and rounded to nearest as the recipe says.
    ///
    /// # Errors
    /// A strategy of the recipe fails, or the run was cancelled.
    pub fn calibrated(&self) -> Result<QuantModel> {
        (self.calibrated)(self.model)
    }

    /// A copy of the float network, to try something on.
    pub fn copy(&self) -> QuantModel {
        self.model.float_copy()
    }

    /// A copy of `model`, which is such a [copy](Self::copy), calibrated and rounded to nearest as the recipe says.
    ///
    /// # Errors
    /// Those of [`calibrated`](Self::calibrated).
    pub fn calibrated_copy(&self, model: &QuantModel) -> Result<QuantModel> {
        (self.calibrated)(model)
    }

    /// Computes values of the network for the first `count` images, batch by batch: `look` gets the values (N, ...) of
    /// `nodes`, in their order.
    ///
    /// # Errors
    /// An operation fails, `look` fails, or the run was cancelled.
    pub fn values(&self, nodes: &[NodeId], count: usize, mut look: impl FnMut(&[Tensor]) -> Result<()>) -> Result<()> {
        let graph = self.model.graph();
        let part = graph.subgraph_with_outputs(graph.nodes().skip(1).map(|(id, _)| id), nodes.to_vec());
        let mut inference = Inference::new(self.model, Precision::Float, part)?;
        let count = count.min(self.image_count());
        let batch = self.images.group().unwrap_or(BATCH);
        for start in (0..count).step_by(batch) {
            if self.progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let images = self.images.range(start, batch.min(count - start))?;
            look(&inference.run(std::slice::from_ref(&images))?)?;
        }
        Ok(())
    }

    /// Walks through the network with the first `count` images (or all, if there are fewer) and two values (N, ...) of each
    /// node, such as the float one and another. `compute` gets a node and both values of each of its inputs, and returns both
    /// values of the node. Values are freed after their last reader.
    ///
    /// # Errors
    /// `compute` fails, the images cannot be read from a cache file, or the run was cancelled.
    pub fn walk(
        &self,
        count: usize,
        mut compute: impl FnMut(NodeId, [&[&Tensor]; 2]) -> Result<[Tensor; 2]>,
    ) -> Result<()> {
        let graph = self.model.graph();
        let images = self.images(count)?;
        let mut values = HashMap::from([(graph.input(), [images.clone(), images])]);
        for (id, node) in graph.nodes().skip(1) {
            if self.progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let read = |side: usize| -> Vec<&Tensor> {
                node.inputs.iter().filter_map(|input| values.get(input).map(|value| &value[side])).collect()
            };
            let computed = compute(id, [&read(0), &read(1)])?;
            values.insert(id, computed);
            values.retain(|value, _| graph.consumers(*value).iter().any(|reader| *reader > id));
        }
        Ok(())
    }

    /// The first `count` images (N, C, H, W), or all if there are fewer; of groups the first one.
    ///
    /// # Errors
    /// They cannot be read from a cache file.
    pub fn images(&self, count: usize) -> Result<Tensor> {
        self.images.first(count)
    }

    /// Receives events, and tells whether the run should stop.
    pub fn progress(&self) -> &dyn Progress {
        self.progress
    }
}
