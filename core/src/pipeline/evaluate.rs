//! Measures a network on a dataset with its task's metrics.

use super::{load_ahead, Batch};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use crate::task::{Measurement, Task};
use candle_core::Tensor;

/// Measures the first `limit` images of the dataset (all by default).
///
/// # Errors
/// No image can be read, or images, network and task do not match.
pub fn evaluate(
    model: &QuantModel,
    dataset: &dyn Dataset,
    task: &dyn Task,
    precision: Precision,
    batch_size: usize,
    limit: Option<usize>,
    progress: &dyn Progress,
) -> Result<Measurement> {
    if limit == Some(0) {
        return Err(Error::setting("evaluation.images", "must be at least 1"));
    }
    let total = limit.map_or(dataset.len(), |l| l.min(dataset.len()));
    let stage = match precision {
        Precision::Float => "evaluating float",
        Precision::Quantized => "evaluating quantized",
    };
    let indices: Vec<usize> = (0..total).collect();
    let pass = Pass { model, dataset, task, precision, batch_size, stage, progress };
    pass.measure(&indices, |batch, _| {
        for message in &batch.broken {
            progress.event(Event::Warning(format!("not counted: {message}")));
        }
        Ok(())
    })
}

/// A forward pass of some images through a network, and its measurement.
pub(super) struct Pass<'a> {
    pub model: &'a QuantModel,
    pub dataset: &'a dyn Dataset,
    pub task: &'a dyn Task,
    pub precision: Precision,
    pub batch_size: usize,
    /// Name of this work in progress events.
    pub stage: &'a str,
    pub progress: &'a dyn Progress,
}

impl Pass<'_> {
    /// Measures the images with these indices. `look` is called with each batch and the network's outputs for it.
    pub fn measure(
        &self,
        indices: &[usize],
        mut look: impl FnMut(&Batch, &[Tensor]) -> Result<()>,
    ) -> Result<Measurement> {
        let Self { model, dataset, task, precision, batch_size, stage, progress } = *self;
        progress.event(Event::Started { stage, total: indices.len() });
        let (mut done, mut broken) = (0, 0);
        let mut meter = task.meter()?;
        let mut inference = Inference::of_network(model, precision)?;
        let batches = indices.chunks(batch_size.max(1));
        load_ahead(dataset, batches, model.graph().input_shape(), model.device(), |batch| {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let outputs = inference.forward(&batch.images)?;
            meter.update(&outputs, &batch.targets)?;
            look(&batch, &outputs)?;
            broken += batch.broken.len();
            done += batch.targets.len() + batch.broken.len();
            progress.event(Event::Advanced(done));
            Ok(())
        })?;
        progress.event(Event::Finished);
        Ok(Measurement { broken, ..meter.compute()? })
    }
}
