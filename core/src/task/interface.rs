//! What a task implements.

use super::measurement::{Measurement, Metric};
use crate::error::Result;
use crate::target::{Target, TargetSpec};
use candle_core::Tensor;

/// What a network is for, such as classification.
pub trait Task: Send + Sync {
    /// The targets that the outputs of a network are compared with. `outputs` are the shapes of the
    /// network's outputs in their order, without the batch dimension.
    ///
    /// # Errors
    /// The network is not one for this task.
    fn targets(&self, outputs: &[&[usize]]) -> Result<TargetSpec>;

    /// What is measured. The first metric is the one that is compared with published values.
    fn metrics(&self) -> Vec<Metric>;

    /// Begins a measurement.
    ///
    /// # Errors
    /// The task cannot measure.
    fn meter(&self) -> Result<Box<dyn Meter>>;

    /// Standard error of the first metric, in the metric's unit, where it is defined.
    ///
    /// # Errors
    /// The measurement lacks a value that the error follows from.
    fn standard_error(&self, measurement: &Measurement) -> Result<Option<f64>> {
        let _ = measurement;
        Ok(None)
    }

    /// Begins the comparison of a network with `published`, a published value of the first metric. The
    /// default, `None`, says that the task compares with no published value.
    ///
    /// # Errors
    /// The metric cannot have the value `published`.
    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        let _ = published;
        Ok(None)
    }
}

/// A measurement that is under way.
pub trait Meter: Send {
    /// Takes a batch into account: the network's outputs, each of shape (N, ...), and the targets of the N images.
    ///
    /// # Errors
    /// Outputs and targets do not fit each other.
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()>;

    /// The values of all metrics over the images so far. It depends on the images and their order alone, not
    /// on their division into batches. Images that could not be read are counted by the caller.
    ///
    /// # Errors
    /// There was no image.
    fn compute(&self) -> Result<Measurement>;
}

/// A comparison with a published value that is under way.
pub trait Comparison: Send {
    /// Takes a batch into account, as [`Meter::update`]. `images` (N, C, H, W) are the network's inputs.
    ///
    /// # Errors
    /// Outputs and targets do not fit each other.
    fn observe(&mut self, images: &Tensor, outputs: &[Tensor], targets: &[Target]) -> Result<()>;

    /// What is wrong, with the likely cause and what to do, when `measured` (on the same images) is too far
    /// from the published value to be chance.
    ///
    /// # Errors
    /// The measurement is not of this task.
    fn problem(&self, measured: &Measurement) -> Result<Option<String>>;
}
