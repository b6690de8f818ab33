//! The interface of a task.

use super::measurement::{Measurement, Metric};
use crate::error::Result;
use crate::head::Output;
use crate::picture::Picture;
use crate::target::{Target, TargetSpec};
use candle_core::Tensor;

/// The purpose of a network, such as classification.
pub trait Task: Send + Sync {
    /// The kind of targets that the network's outputs, in their order, are compared with.
    ///
    /// # Errors
    /// The task cannot measure a network with these outputs.
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec>;

    /// The metrics. The first one is compared with published values. A task without a ground truth has none, and measures
    /// networks by its [`image_metrics`](Self::image_metrics) alone.
    fn metrics(&self) -> Vec<Metric>;

    /// Begins a measurement.
    ///
    /// # Errors
    /// The task cannot measure.
    fn meter(&self) -> Result<Box<dyn Meter>>;

    /// What is measured on every single image, so that networks can be compared on the same images: with the float
    /// network, and with each other. A value in percent is 100 (yes) or 0 (no) for one image, and its mean is the
    /// share of images with "yes". If one of these has the key of one of the [`metrics`](Self::metrics), its mean over
    /// all images must be that metric's value. The default, none, is for tasks that compare no networks.
    fn image_metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// The values of the [`image_metrics`](Self::image_metrics), in their order, for each image of a batch. `outputs` are
    /// the network's outputs, each of shape (N, ...), and `float` those of the float network for the same images.
    ///
    /// # Errors
    /// The outputs of the two networks and the targets do not match.
    fn image_values(&self, outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        let _ = (outputs, float);
        Ok(vec![Vec::new(); targets.len()])
    }

    /// How far a network's results for an image are from the float network's, without a ground truth: what an analysis of single
    /// layers measures on the calibration images. The first one is 0 where both agree and grows with the distance; layers are
    /// ranked by it. The default, none, is for tasks that compare no networks.
    fn deviation_metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// The values of the [`deviation_metrics`](Self::deviation_metrics), in their order, for each image of a batch.
    ///
    /// # Errors
    /// The outputs of the two networks do not match.
    fn deviations(&self, outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        let _ = (outputs, float);
        Ok(Vec::new())
    }

    /// Begins a record of what a network gives for each image, in the format that programs for such tasks read. `categories` are
    /// those of the [dataset](crate::Dataset::categories). The default, `None`, is for tasks without one.
    ///
    /// # Errors
    /// The categories cannot be those of the task.
    fn record(&self, categories: &[(u64, String)]) -> Result<Option<Box<dyn Record>>> {
        let _ = categories;
        Ok(None)
    }

    /// Draws what networks found in a picture: the picture of the annotations and that of each network, side by side. `target` is
    /// the picture's, and `categories` are those of the [dataset](crate::Dataset::categories). The default, `None`, is for tasks
    /// that draw nothing.
    ///
    /// # Errors
    /// Outputs and target do not match.
    fn draw(
        &self,
        picture: &Picture,
        target: &Target,
        networks: &[Drawn<'_>],
        categories: &[(u64, String)],
    ) -> Result<Option<Picture>> {
        let _ = (picture, target, networks, categories);
        Ok(None)
    }

    /// Begins the comparison of a network with `published`, a published value of the first metric. The
    /// default, `None`, is for tasks that do not compare with published values.
    ///
    /// # Errors
    /// `published` is not a possible value of the metric.
    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        let _ = published;
        Ok(None)
    }
}

/// What a network gives for one image that is drawn.
#[derive(Debug, Clone)]
pub struct Drawn<'a> {
    /// The network in a few words, such as `float`.
    pub title: &'a str,
    /// The network's outputs, each of shape (1, ...).
    pub outputs: Vec<Tensor>,
}

/// Computes a measurement, batch by batch.
pub trait Meter: Send {
    /// Adds a batch: the network's outputs, each of shape (N, ...), and the targets of the N images.
    ///
    /// # Errors
    /// Outputs and targets do not match.
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()>;

    /// The values of all metrics over the images so far. They must depend only on the images and their order, not
    /// on their division into batches. The caller counts images that cannot be read. Where the standard error of a metric is
    /// known, it is part of the measurement too ([`Measurement::insert`]).
    ///
    /// # Errors
    /// There was no image.
    fn compute(&self) -> Result<Measurement>;
}

/// Records what a network gives, batch by batch.
pub trait Record: Send {
    /// Adds a batch, as [`Meter::update`] does.
    ///
    /// # Errors
    /// Outputs and targets do not match.
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()>;

    /// The text of the file.
    ///
    /// # Errors
    /// It cannot be written.
    fn finish(&self) -> Result<String>;
}

/// Compares a network with a published value, batch by batch.
pub trait Comparison: Send {
    /// Adds a batch, as [`Meter::update`] does. `images` (N, C, H, W) are the network's inputs.
    ///
    /// # Errors
    /// Outputs and targets do not match.
    fn observe(&mut self, images: &Tensor, outputs: &[Tensor], targets: &[Target]) -> Result<()>;

    /// What is wrong, with the likely cause and what to do, if `measured` (on the same images) differs too much
    /// from the published value to be chance.
    ///
    /// # Errors
    /// Another task made the measurement.
    fn problem(&self, measured: &Measurement) -> Result<Option<String>>;
}
