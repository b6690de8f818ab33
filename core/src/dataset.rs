//! Datasets: images and their targets for calibration and evaluation.

use crate::error::{Error, Result};
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use crate::target::{Target, TargetSpec};
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
    /// What the task compares the network's outputs with.
    pub targets: TargetSpec,
    /// Replaces the folder that the parameters name.
    pub root: Option<PathBuf>,
    /// Folder that relative paths of the parameters start from.
    pub base_dir: PathBuf,
}

impl DatasetRequest {
    /// The number of classes, for a dataset that gives a class with each image.
    ///
    /// # Errors
    /// The task compares with something else.
    pub fn classes(&self) -> Result<usize> {
        match self.targets {
            TargetSpec::Class { classes } => Ok(classes),
            other => {
                let message = format!(
                    "this dataset gives a class with each image, but the task compares with {other}; choose another \
                     dataset or another `task`"
                );
                Err(Error::setting("data", message))
            }
        }
    }
}

/// One image, ready for the network, with its target.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Pixels of shape (C, H, W), normalized.
    pub image: Vec<f32>,
    /// What is known of it, and the network's outputs are compared with.
    pub target: Target,
}

/// Images with their targets, with random access.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which targets the images have; the same for all.
    fn targets(&self) -> TargetSpec;

    /// Image `index`. Called from several threads; the result depends on nothing but the index.
    ///
    /// # Errors
    /// The image cannot be read; the error names it.
    fn sample(&self, index: usize) -> Result<Sample>;
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
        let len = origin.ask("len", || inner.len())?;
        let targets = origin.ask("targets", || inner.targets())?;
        Ok(Box::new(GuardedDataset { origin, len, targets, inner }))
    }
}

/// A dataset of a registry entry: its panics become errors. What it says of itself is asked once.
struct GuardedDataset {
    origin: Origin,
    len: usize,
    targets: TargetSpec,
    inner: Box<dyn Dataset>,
}

impl Dataset for GuardedDataset {
    fn len(&self) -> usize {
        self.len
    }

    fn targets(&self) -> TargetSpec {
        self.targets
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.origin.call("sample", || self.inner.sample(index))
    }
}

/// Registers a dataset; the fields are those of [`register_observer!`](crate::register_observer).
#[macro_export]
macro_rules! register_dataset {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::dataset::DatasetKind, $name, [$($alias),*], $summary, $build);
    };
}
