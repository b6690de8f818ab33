//! Checks that network and images are those of the published value, before a long run.

use super::evaluate::{Network, Pass};
use super::published::comparison;
use super::session::Session;
use crate::dataset::Split;
use crate::error::{Error, Result};
use crate::model::{Precision, QuantModel};
use crate::progress::Progress;
use crate::random::{permutation, stream, Purpose};
use crate::task::Metric;

/// Number of images in the sample.
const SAMPLE: usize = 256;

/// The float network's measurement on a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatSample {
    /// The metric.
    pub metric: Metric,
    /// Its value on the sample.
    pub value: f64,
    /// Its published value.
    pub published: f64,
    /// Number of images.
    pub images: usize,
}

impl FloatSample {
    /// A text for readers, such as `93.4 % of a sample of 256 images, published 93.28 % of the validation set`.
    pub fn text(&self) -> String {
        let unit = self.metric.unit;
        // A sample is noisy, so its value has one digit less.
        let value = unit.text(self.value, unit.digits() - 1);
        let published = unit.text(self.published, unit.digits());
        format!("{value} of a sample of {} images, published {published} of the validation set", self.images)
    }
}

impl Session<'_> {
    /// Measures the float network on a sample of the evaluation images and compares the result with the
    /// published value. `None` if the recipe has no published value.
    ///
    /// # Errors
    /// The value is too far from the published one (the error names the likely cause), or no image can be read.
    pub fn check_float(&self, model: &QuantModel, progress: &dyn Progress) -> Result<Option<FloatSample>> {
        let (recipe, task) = (self.recipe(), self.task());
        let Some(published) = recipe.published else { return Ok(None) };
        let mut comparison = comparison(recipe, task, "published.float", published.float)?;
        let dataset = self.dataset_with_notes(Split::Evaluation, progress)?;
        let mut order = permutation(stream(recipe.seed, Purpose::Sample, 0, 0), dataset.len());
        order.truncate(SAMPLE);
        let pass = Pass {
            dataset: &*dataset,
            batch_size: recipe.evaluation.batch_size,
            // A sample is too small for the share; the evaluation of the float network judges that.
            max_broken_percent: 100.0,
            stage: "checking the float network",
            progress,
        };
        let network = Network { model, precision: Precision::Float };
        let measured = pass
            .measure(network, task, &order, |part, outputs| comparison.observe(&part.images, outputs, &part.targets))?;
        if let Some(problem) = comparison.problem(&measured)? {
            let message = format!("{problem}; if this is meant, run without the comparison: --set published=null");
            return Err(Error::setting("published.float", message));
        }
        let none = || Error::setting("task", format!("the task '{}' names no metric", recipe.task.name));
        let metric = task.metrics().into_iter().next().ok_or_else(none)?;
        let value = measured.value(&metric)?;
        Ok(Some(FloatSample { metric, value, published: published.float, images: measured.images }))
    }
}
