//! Measures a network on a dataset with its task's metrics.

use super::broken::BrokenImages;
use super::{load_ahead, Batch};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use crate::recipe::EvaluationRecipe;
use crate::task::{Measurement, Task};
use candle_core::Tensor;

/// Measures the first images of the dataset, as many as `settings` says (all by default). An image that cannot be read
/// is reported and not counted, whatever batch it is in.
///
/// # Errors
/// More images cannot be read than `settings` accepts, or images, network and task do not match.
pub fn evaluate(
    model: &QuantModel,
    dataset: &dyn Dataset,
    task: &dyn Task,
    precision: Precision,
    settings: &EvaluationRecipe,
    progress: &dyn Progress,
) -> Result<Measurement> {
    if settings.images == Some(0) {
        return Err(Error::setting("evaluation.images", "must be at least 1"));
    }
    let total = settings.images.map_or(dataset.len(), |limit| limit.min(dataset.len()));
    let stage = match precision {
        Precision::Float => "evaluating float",
        Precision::Quantized => "evaluating quantized",
    };
    let indices: Vec<usize> = (0..total).collect();
    let EvaluationRecipe { batch_size, max_broken_percent, .. } = *settings;
    let pass = Pass { model, dataset, task, precision, batch_size, max_broken_percent, stage, progress };
    pass.measure(&indices, |_, _| Ok(()))
}

/// A forward pass of some images through a network, and its measurement.
pub(super) struct Pass<'a> {
    pub model: &'a QuantModel,
    pub dataset: &'a dyn Dataset,
    pub task: &'a dyn Task,
    pub precision: Precision,
    pub batch_size: usize,
    /// Share of images that may be broken.
    pub max_broken_percent: f64,
    /// Name of this work in progress events.
    pub stage: &'a str,
    pub progress: &'a dyn Progress,
}

impl Pass<'_> {
    /// Measures the images with these indices. `look` is called with the images of each batch that could be read, and
    /// the network's outputs for them.
    pub fn measure(
        &self,
        indices: &[usize],
        mut look: impl FnMut(&Batch, &[Tensor]) -> Result<()>,
    ) -> Result<Measurement> {
        let Self { model, dataset, task, precision, batch_size, max_broken_percent, stage, progress } = *self;
        progress.event(Event::Started { stage, total: indices.len() });
        let (mut done, mut broken) = (0, BrokenImages::default());
        let mut meter = task.meter()?;
        let mut inference = Inference::of_network(model, precision)?;
        let batches = indices.chunks(batch_size.max(1));
        load_ahead(dataset, batches, model.graph().input_shape(), model.device(), |batch| {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            broken.add(&batch.broken);
            for message in &batch.broken {
                progress.event(Event::Warning(format!("not counted: {message}")));
            }
            if !batch.targets.is_empty() {
                let outputs = inference.forward(&batch.images)?;
                meter.update(&outputs, &batch.targets)?;
                look(&batch, &outputs)?;
            }
            done += batch.targets.len() + batch.broken.len();
            progress.event(Event::Advanced(done));
            Ok(())
        })?;
        progress.event(Event::Finished);
        broken.check("evaluation", indices.len(), max_broken_percent)?;
        Ok(Measurement { broken: broken.count(), ..meter.compute()? })
    }
}
