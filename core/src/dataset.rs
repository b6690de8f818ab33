//! Datasets: images and their targets for calibration and evaluation.

use crate::error::{Error, Result};
use crate::guard::Origin;
use crate::head::ImageSize;
use crate::params::Params;
use crate::picture::Picture;
use crate::registry::{define_kind, Entry};
use crate::target::{Target, TargetSpec};
use std::path::PathBuf;

/// A part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training images, with the augmentation that the recipe sets.
    Calibration,
    /// Validation images.
    Evaluation,
}

/// What the pipeline requests from a dataset.
#[derive(Debug, Clone)]
pub struct DatasetRequest {
    /// The part.
    pub split: Split,
    /// Seed of the augmentation.
    pub seed: u64,
    /// Shape of the network's input: channels, height, width.
    pub input: [usize; 3],
    /// The kind of targets that the task compares the network's outputs with.
    pub targets: TargetSpec,
    /// The dataset's folder; replaces the one in the parameters.
    pub root: Option<PathBuf>,
    /// Folder of the recipe's file that names the dataset. A parameter may stand in another file, which
    /// [`Params::resolve`] knows.
    pub base_dir: PathBuf,
}

impl DatasetRequest {
    /// The number of classes, for datasets that give a class with each image.
    ///
    /// # Errors
    /// The task compares with something other than classes.
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

/// One preprocessed image with its target.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Normalized pixels of shape (C, H, W).
    pub image: Vec<f32>,
    /// The ground truth that the network's outputs are compared with.
    pub target: Target,
    /// The image's sizes; `None` for an image of the size of the network's input, which fills it.
    pub size: Option<ImageSize>,
}

impl Sample {
    /// An image of the size of the network's input.
    pub fn new(image: Vec<f32>, target: Target) -> Self {
        Self { image, target, size: None }
    }

    /// An image of its own height and width, for networks that take images of any size.
    pub fn sized(image: Vec<f32>, target: Target, size: ImageSize) -> Self {
        Self { image, target, size: Some(size) }
    }
}

/// A collection of images and targets with random access.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind of targets; the same for all images.
    fn targets(&self) -> TargetSpec;

    /// How images become the network's input, in a few words, such as "shorter side to 256 pixels, center crop of 224"; a plan
    /// shows it. By default nothing is said.
    fn preprocessing(&self) -> Option<String> {
        None
    }

    /// Numbers and names of the categories of objects, in the dataset's order; none by default.
    fn categories(&self) -> Vec<(u64, String)> {
        Vec::new()
    }

    /// What the user should know about the data, such as files that were passed over. Each note is a sentence that names
    /// the files; a run shows it once.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Loads image `index`. Several threads call it; the result must depend only on the index.
    ///
    /// # Errors
    /// The image cannot be read; the error names it. Such an image is reported and not counted.
    fn sample(&self, index: usize) -> Result<Sample>;

    /// Image `index` as people look at it, from which the sample is made. The default, `None`, is for data that is no picture.
    ///
    /// # Errors
    /// The image cannot be read.
    fn picture(&self, index: usize) -> Result<Option<Picture>> {
        let _ = index;
        Ok(None)
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
        let len = origin.ask("len", || inner.len())?;
        let targets = origin.ask("targets", || inner.targets())?;
        let preprocessing = origin.ask("preprocessing", || inner.preprocessing())?;
        let categories = origin.ask("categories", || inner.categories())?;
        let notes = origin.ask("notes", || inner.notes())?;
        Ok(Box::new(GuardedDataset { origin, len, targets, preprocessing, categories, notes, inner }))
    }
}

/// Wraps the dataset of a registry entry, so that its panics become errors. Its constants are read once.
struct GuardedDataset {
    origin: Origin,
    len: usize,
    targets: TargetSpec,
    preprocessing: Option<String>,
    categories: Vec<(u64, String)>,
    notes: Vec<String>,
    inner: Box<dyn Dataset>,
}

impl Dataset for GuardedDataset {
    fn len(&self) -> usize {
        self.len
    }

    fn targets(&self) -> TargetSpec {
        self.targets
    }

    fn preprocessing(&self) -> Option<String> {
        self.preprocessing.clone()
    }

    fn categories(&self) -> Vec<(u64, String)> {
        self.categories.clone()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.origin.call("sample", || self.inner.sample(index))
    }

    fn picture(&self, index: usize) -> Result<Option<Picture>> {
        self.origin.call("picture", || self.inner.picture(index))
    }
}

/// Registers a dataset. The fields are those of [`register_observer!`](crate::register_observer).
#[macro_export]
macro_rules! register_dataset {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::dataset::DatasetKind, $name, [$($alias),*], $summary, $build);
    };
}
