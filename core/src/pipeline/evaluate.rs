//! Measures a network on a dataset with its task's metrics.

use super::broken::BrokenImages;
use super::{load_ahead, Part};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use crate::recipe::EvaluationRecipe;
use crate::task::{Measurement, Task};
use candle_core::Tensor;
use std::ops::ControlFlow;

/// Measures the first images of the dataset, as many as `settings` says (all by default). An image that cannot be read
/// is reported and not counted, whatever batch it is in. `look` is called with the images that could be read, part by part, and the
/// network's outputs for them.
///
/// # Errors
/// More images cannot be read than `settings` accepts, or images, network and task do not match.
pub fn evaluate(
    model: &QuantModel,
    dataset: &dyn Dataset,
    task: &dyn Task,
    precision: Precision,
    settings: &EvaluationRecipe,
    look: Look<'_>,
    progress: &dyn Progress,
) -> Result<Measurement> {
    let indices = indices(dataset, settings)?;
    let stage = match precision {
        Precision::Float => "evaluating float",
        Precision::Quantized => "evaluating quantized",
    };
    let pass = Pass::new(dataset, settings, stage, progress);
    pass.measure(Network { model, precision }, task, &indices, look)
}

/// Called with the images of a part of a batch, and a network's outputs for them.
pub type Look<'a> = &'a mut dyn FnMut(&Part, &[Tensor]) -> Result<()>;

/// The images to evaluate.
///
/// # Errors
/// There are none.
pub(super) fn indices(dataset: &dyn Dataset, settings: &EvaluationRecipe) -> Result<Vec<usize>> {
    if settings.images == Some(0) {
        return Err(Error::setting("evaluation.images", "must be at least 1"));
    }
    Ok((0..settings.images.map_or(dataset.len(), |limit| limit.min(dataset.len()))).collect())
}

/// A network as it computes in a pass.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    pub model: &'a QuantModel,
    pub precision: Precision,
}

/// A forward pass of some images through one network or several.
pub(super) struct Pass<'a> {
    pub dataset: &'a dyn Dataset,
    pub batch_size: usize,
    /// Share of images that may be broken.
    pub max_broken_percent: f64,
    /// Name of this work in progress events.
    pub stage: &'a str,
    pub progress: &'a dyn Progress,
}

impl<'a> Pass<'a> {
    pub fn new(
        dataset: &'a dyn Dataset,
        settings: &EvaluationRecipe,
        stage: &'a str,
        progress: &'a dyn Progress,
    ) -> Self {
        let EvaluationRecipe { batch_size, max_broken_percent, .. } = *settings;
        Self { dataset, batch_size, max_broken_percent, stage, progress }
    }

    /// Measures a network on the images with these indices. `look` is called with the images of each part of a batch that
    /// could be read, and the network's outputs for them.
    pub fn measure(
        &self,
        network: Network<'_>,
        task: &dyn Task,
        indices: &[usize],
        mut look: impl FnMut(&Part, &[Tensor]) -> Result<()>,
    ) -> Result<Measurement> {
        let mut meter = task.meter()?;
        let broken = self.run(&[network], indices, |part, outputs| {
            outputs.iter().try_for_each(|outputs| {
                meter.update(outputs, &part.targets)?;
                look(part, outputs)
            })
        })?;
        Ok(Measurement { broken, ..meter.compute()? })
    }

    /// Computes the outputs of all networks for the images with these indices. `look` is called with the images of each
    /// part of a batch that could be read, and each network's outputs for them. Returns the number of broken images.
    pub fn run(
        &self,
        networks: &[Network<'_>],
        indices: &[usize],
        mut look: impl FnMut(&Part, &[Vec<Tensor>]) -> Result<()>,
    ) -> Result<usize> {
        let Self { dataset, batch_size, max_broken_percent, stage, progress } = *self;
        let Some(Network { model: first, .. }) = networks.first() else { return Ok(0) };
        progress.event(Event::Started { stage, total: indices.len() });
        let (mut done, mut broken) = (0, BrokenImages::default());
        let compiled = networks.iter().map(|network| Inference::of_network(network.model, network.precision));
        let mut compiled = compiled.collect::<Result<Vec<_>>>()?;
        let batches = indices.chunks(batch_size.max(1));
        load_ahead(dataset, batches, first.graph().input_shape(), first.device(), |batch| {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            broken.add(&batch.broken);
            for message in &batch.broken {
                progress.event(Event::Warning(format!("not counted: {message}")));
            }
            for part in &batch.parts {
                let outputs = compiled
                    .iter_mut()
                    .zip(networks)
                    .map(|(compiled, network)| network.model.finish(compiled.forward(&part.images)?, &part.sizes));
                look(part, &outputs.collect::<Result<Vec<_>>>()?)?;
            }
            done += batch.count();
            progress.event(Event::Advanced(done));
            Ok(ControlFlow::Continue(()))
        })?;
        progress.event(Event::Finished);
        broken.check("evaluation", indices.len(), max_broken_percent)?;
        Ok(broken.count())
    }
}
