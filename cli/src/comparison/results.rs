//! The results that are compared, and what comes of it.

use crate::error::{At, Result, Stage};
use qdrop_core::pipeline::{Registries, SavedModel, Session};
use qdrop_core::recipe::Recipe;
use qdrop_core::task::{Measurement, PairedComparison};
use std::path::PathBuf;

/// Two results on the same images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Compared {
    /// The first result, A.
    pub a: ComparedResult,
    /// The second result, B.
    pub b: ComparedResult,
    /// What the task measures on single images, for A and B; for classification top-1, agreement with the float network
    /// and KL(float || quantized).
    pub metrics: Vec<PairedComparison>,
    /// The same as text.
    pub text: String,
}

/// One of two results that are compared.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ComparedResult {
    /// Its folder or file.
    pub path: PathBuf,
    /// Name of its recipe.
    pub recipe: String,
    /// Its bit widths, such as `w2a4`.
    pub bits: String,
    /// Its measurement on the common images.
    pub measured: Measurement,
}

/// A result that is opened, with everything that its session refers to.
pub(super) struct Opened {
    pub path: PathBuf,
    pub recipe: Recipe,
    pub registries: Registries,
    pub saved: SavedModel,
}

impl Opened {
    pub fn session(&self) -> Result<Session<'_>> {
        self.saved.session(self.recipe.clone(), &self.registries).at(Stage::Setup)
    }

    pub fn result(&self, measured: Measurement) -> ComparedResult {
        ComparedResult { path: self.path.clone(), recipe: self.recipe.name.clone(), bits: self.recipe.bits(), measured }
    }
}
