//! The recipe that a call of `quantize` describes.

use pyo3::prelude::*;
use qdrop::core::progress::Progress;
use qdrop::core::recipe::Recipe;
use qdrop::recipes::Loader;
use qdrop::Result;
use std::path::PathBuf;

/// A recipe with changes.
#[derive(FromPyObject)]
pub struct Request {
    /// The name or file of a recipe, or the file of a network.
    name: PathBuf,
    /// Bits of weights and activations.
    bits: Option<String>,
    /// The preset of a network without a recipe.
    preset: Option<String>,
    /// Changes of single values, `key=value`.
    changes: Vec<String>,
    /// Iterations for each unit.
    iters: Option<usize>,
    /// The checkpoint with the float weights.
    weights: Option<PathBuf>,
    /// The folder with the images.
    data: Option<PathBuf>,
}

impl Request {
    /// Loads the recipe.
    pub fn load(self, progress: &dyn Progress) -> Result<Recipe> {
        let mut loader = Loader::new(self.name).progress(progress);
        for change in self.changes {
            loader = loader.set(change);
        }
        if let Some(bits) = self.bits {
            loader = loader.bits(bits);
        }
        if let Some(preset) = self.preset {
            loader = loader.preset(preset);
        }
        if let Some(iters) = self.iters {
            loader = loader.iters(iters);
        }
        if let Some(weights) = self.weights {
            loader = loader.weights(weights);
        }
        if let Some(data) = self.data {
            loader = loader.data(data);
        }
        loader.load()
    }
}
