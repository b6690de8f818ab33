//! The ends of a network: the images that it takes, and what is made of its outputs.

use super::{Precision, QuantModel};
use crate::error::{Error, Result};
use crate::head::{Head, ImageSize};
use candle_core::Tensor;
use std::sync::Arc;

impl QuantModel {
    /// The same model with another head, or without one.
    pub fn with_head(self, head: Option<Arc<dyn Head>>) -> Self {
        Self { head, ..self }
    }

    /// Whether a head reads the graph's outputs.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// The network's outputs for images of these sizes, from those of its graph: the head's, if there is one.
    ///
    /// # Errors
    /// The head fails.
    pub fn finish(&self, outputs: Vec<Tensor>, sizes: &[ImageSize]) -> Result<Vec<Tensor>> {
        match &self.head {
            Some(head) => head.forward(&outputs, &self.parameters, sizes),
            None => Ok(outputs),
        }
    }

    /// Computes the network's outputs for a batch of images (N, C, H, W).
    ///
    /// # Errors
    /// The images do not match the network's input.
    pub fn forward(&self, images: &Tensor, precision: Precision) -> Result<Vec<Tensor>> {
        self.check_input(images)?;
        self.run(&self.graph.whole(), std::slice::from_ref(images), precision)
    }

    /// Checks that a batch of images matches the network's input. A network for images of any size takes all heights and widths.
    ///
    /// # Errors
    /// The shape differs.
    pub fn check_input(&self, images: &Tensor) -> Result<()> {
        let want = self.graph.input_shape();
        let fits = match images.dims() {
            [_, channels, ..] if images.rank() == 4 && self.graph.any_size() => want.first() == Some(channels),
            dims => dims.len() == 4 && &dims[1..] == want,
        };
        if !fits {
            return Err(Error::message(format!(
                "the network takes images of shape {want:?} (channels, height, width), but the data has {:?}",
                images.dims().get(1..).unwrap_or_default()
            )));
        }
        Ok(())
    }
}
