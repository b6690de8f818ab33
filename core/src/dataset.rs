//! Datasets: images and labels for calibration and evaluation.

use crate::error::Result;
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use std::path::PathBuf;

/// Which part of a dataset is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training images, augmented as the recipe says.
    Calibration,
    /// Validation images.
    Evaluation,
}

/// What the pipeline wants from a dataset.
#[derive(Debug, Clone)]
pub struct DatasetRequest {
    /// Which part.
    pub split: Split,
    /// Seed of augmentation.
    pub seed: u64,
    /// Shape of the network's input: channels, height, width.
    pub input: [usize; 3],
    /// Classes of the network's output.
    pub classes: usize,
    /// Replaces the folder that the parameters name.
    pub root: Option<PathBuf>,
    /// Folder that relative paths of the parameters start from.
    pub base_dir: PathBuf,
}

/// One image, ready for the network, with its label.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Pixels of shape (C, H, W), normalized.
    pub image: Vec<f32>,
    /// Index of its class.
    pub label: usize,
}

/// Labelled images with random access.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Image `index`. Called from several threads; the result depends on nothing but the index.
    ///
    /// # Errors
    /// The image cannot be read; the error names it.
    fn sample(&self, index: usize) -> Result<Sample>;
}

/// A dataset of a registry entry.
struct GuardedDataset {
    origin: Origin,
    len: usize,
    inner: Box<dyn Dataset>,
}

impl GuardedDataset {
    fn new(origin: Origin, inner: Box<dyn Dataset>) -> Result<Self> {
        let len = origin.ask("len", || inner.len())?;
        Ok(Self { origin, len, inner })
    }
}

impl Dataset for GuardedDataset {
    fn len(&self) -> usize {
        self.len
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.origin.call("sample", || self.inner.sample(index))
    }
}

define_kind!(
    /// Constructor of a dataset.
    DatasetKind,
    "dataset",
    fn(&Params, &DatasetRequest) -> Result<Box<dyn Dataset>>
);

impl Entry<DatasetKind> {
    /// Opens the dataset.
    ///
    /// # Errors
    /// A parameter is wrong, or the data cannot be used.
    pub fn build(&self, params: &Params, request: &DatasetRequest) -> Result<Box<dyn Dataset>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(params, request))?;
        Ok(Box::new(GuardedDataset::new(origin, inner)?))
    }
}

/// Registers a dataset; the fields are those of [`register_observer!`](crate::register_observer).
#[macro_export]
macro_rules! register_dataset {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::dataset::DatasetKind, $name, [$($alias),*], $summary, $build);
    };
}
