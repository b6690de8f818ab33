//! Heads: what turns a network's outputs into results, outside of the quantized graph.

use crate::error::Result;
use crate::guard::Origin;
use crate::target::Labels;
use candle_core::Tensor;
use qdrop_kernels::boxes::ImageSizes;
use std::collections::HashMap;

/// One of a network's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// A tensor for each image, of this shape: (C, H, W) or (features).
    Values(Vec<usize>),
    /// Objects that were found in each image, the best first: a tensor of rows [`OBJECT_VALUES`] long.
    Objects {
        /// Number of rows, of which the last may be unused.
        most: usize,
        /// How the classes are numbered.
        labels: Labels,
    },
}

impl Output {
    /// Outputs in a message, such as `2 outputs: [10] values, at most 100 objects`.
    pub fn list(outputs: &[Self]) -> String {
        let one = |output: &Self| match output {
            Self::Values(shape) => format!("{shape:?} values"),
            Self::Objects { most, .. } => format!("at most {most} objects"),
        };
        format!("{} outputs: {}", outputs.len(), outputs.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// Values of an object that was found: left, top, right and bottom in pixels of the original picture, score and label. The
/// label of an unused row is negative.
pub const OBJECT_VALUES: usize = 6;

/// The sizes of an image in a batch, as height and width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    /// The picture as it was read.
    pub original: [usize; 2],
    /// The picture as the network gets it.
    pub resized: [usize; 2],
    /// The tensor that it lies in, at the top left. What is right of it and below is zero.
    pub tensor: [usize; 2],
}

impl ImageSize {
    /// An image that fills its tensor.
    pub fn whole(size: [usize; 2]) -> Self {
        Self { original: size, resized: size, tensor: size }
    }
}

impl From<ImageSize> for ImageSizes {
    fn from(size: ImageSize) -> Self {
        Self { resized: size.resized, original: size.original }
    }
}

/// The last part of a network, which is not quantized: it reads the graph's outputs. Its layers may be shared between them,
/// and its results may differ in number from image to image, as those of detectors do.
pub trait Head: Send + Sync {
    /// Names and shapes of its parameters. Checkpoints have them under these names, or those of a
    /// [key map](crate::Architecture::key_maps).
    fn parameters(&self) -> Vec<(String, Vec<usize>)>;

    /// What it computes.
    fn outputs(&self) -> Vec<Output>;

    /// Computes its outputs, each (N, ...), from the graph's outputs `features`, each (N, ...). `sizes` are those of the N
    /// images, whose tensors are equally large.
    ///
    /// # Errors
    /// The values do not fit the head.
    fn forward(
        &self,
        features: &[Tensor],
        parameters: &HashMap<String, Tensor>,
        sizes: &[ImageSize],
    ) -> Result<Vec<Tensor>>;
}

/// Wraps the head of a registered architecture, so that its panics become errors. Its constants are read once.
pub(crate) struct GuardedHead {
    origin: Origin,
    parameters: Vec<(String, Vec<usize>)>,
    outputs: Vec<Output>,
    inner: Box<dyn Head>,
}

impl GuardedHead {
    pub fn new(origin: Origin, inner: Box<dyn Head>) -> Result<Self> {
        let parameters = origin.ask("parameters", || inner.parameters())?;
        let outputs = origin.ask("outputs", || inner.outputs())?;
        Ok(Self { origin, parameters, outputs, inner })
    }
}

impl Head for GuardedHead {
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters.clone()
    }

    fn outputs(&self) -> Vec<Output> {
        self.outputs.clone()
    }

    fn forward(
        &self,
        features: &[Tensor],
        parameters: &HashMap<String, Tensor>,
        sizes: &[ImageSize],
    ) -> Result<Vec<Tensor>> {
        self.origin.call("forward", || self.inner.forward(features, parameters, sizes))
    }
}
