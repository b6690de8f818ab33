//! Is this the network, and are these the images, that the published accuracy belongs to?

use super::{load_ahead, Session};
use crate::dataset::Split;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::progress::{Event, Progress};
use crate::random::{permutation, stream, Purpose};
use std::collections::HashMap;

/// Images of the sample.
const SAMPLE: usize = 256;
/// Points below the published accuracy that are allowed besides sampling noise: another decoder,
/// another crop, another version of the weights.
const ALLOWED: f64 = 5.0;

/// Float accuracy on a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloatSample {
    /// Top-1 in percent.
    pub top1: f64,
    /// Number of images.
    pub images: usize,
}

/// What the sample tells about the cause of a low accuracy.
#[derive(Debug, Default)]
struct Evidence {
    correct: usize,
    images: usize,
    /// How often each class was predicted.
    predicted: HashMap<usize, usize>,
    /// Sum of the largest softmax probabilities.
    confidence: f64,
    /// Number, sum and sum of squares of the network's inputs.
    inputs: (f64, f64, f64),
}

impl Session<'_> {
    /// Measures the float network on a sample of the evaluation images and compares with the
    /// published accuracy; `None` when the recipe has none.
    ///
    /// # Errors
    /// The accuracy is far below the published one; the error names the likely cause.
    pub fn check_float(&self, model: &QuantModel, progress: &dyn Progress) -> Result<Option<FloatSample>> {
        let Some(published) = self.recipe().published else { return Ok(None) };
        let dataset = self.dataset(Split::Evaluation)?;
        let mut order = permutation(stream(self.recipe().seed, Purpose::Sample, 0, 0), dataset.len());
        order.truncate(SAMPLE);
        let mut evidence = Evidence::default();
        progress.event(Event::Started { stage: "checking the float network", total: order.len() });
        let mut inference = Inference::of_network(model, Precision::Float)?;
        let batches = order.chunks(self.recipe().evaluation.batch_size);
        load_ahead(&*dataset, batches, model.graph().input_shape(), model.device(), |batch| {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            host_values(&batch.images, |values| evidence.add_inputs(values))?;
            let outputs = inference.forward(&batch.images)?;
            let [logits] = outputs.as_slice() else { return Err(Error::message("a classifier has one output")) };
            let logits = logits.flatten_from(1)?.to_vec2::<f32>()?;
            for (logits, label) in logits.iter().zip(&batch.labels) {
                evidence.add(logits, *label);
            }
            progress.event(Event::Advanced(evidence.images));
            Ok(())
        })?;
        progress.event(Event::Finished);
        let top1 = 100.0 * evidence.share(evidence.correct);
        let expected = published.float / 100.0;
        let noise = 100.0 * (expected * (1.0 - expected) / evidence.images.max(1) as f64).sqrt();
        if top1 < published.float - 3.0 * noise - ALLOWED {
            let message = format!(
                "the float network classifies {top1:.1} % of {} images correctly, {:.1} % are published: {}; \
                 if this is meant, run without the comparison: --set published=null",
                evidence.images,
                published.float,
                evidence.cause()
            );
            return Err(Error::setting("published.float", message));
        }
        Ok(Some(FloatSample { top1, images: evidence.images }))
    }
}

impl Evidence {
    fn add_inputs(&mut self, values: &[f32]) {
        let (count, sum, squares) = &mut self.inputs;
        *count += values.len() as f64;
        *sum += values.iter().map(|v| f64::from(*v)).sum::<f64>();
        *squares += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }

    fn add(&mut self, logits: &[f32], label: usize) {
        let Some((class, largest)) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) else { return };
        self.images += 1;
        self.correct += usize::from(class == label);
        *self.predicted.entry(class).or_default() += 1;
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        self.confidence += 1.0 / sum;
    }

    fn share(&self, count: usize) -> f64 {
        count as f64 / self.images.max(1) as f64
    }

    /// The most likely reason for a low accuracy.
    fn cause(&self) -> String {
        let (count, sum, squares) = self.inputs;
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0).sqrt();
        if mean.abs() > 1.5 || !(0.5..=2.0).contains(&deviation) {
            return format!(
                "the network's inputs have the mean {mean:.2} and the standard deviation {deviation:.2}, normalized \
                 images have about 0 and 1; check the normalization (`mean` and `std` of data.params)"
            );
        }
        let (class, most) = self.predicted.iter().max_by_key(|(class, n)| (**n, **class)).unwrap_or((&0, &0));
        let (share, confidence) = (self.share(*most), self.confidence / self.images.max(1) as f64);
        if share > 0.5 || confidence < 0.25 {
            return format!(
                "it predicts class {class} for {:.0} % of the images with a mean confidence of {confidence:.2}, as an \
                 untrained network does; check that model.weights is a trained checkpoint of this architecture",
                100.0 * share
            );
        }
        if self.share(self.correct) < 0.1 {
            return format!(
                "it is sure of its predictions (mean confidence {confidence:.2}), but they are other classes: the class \
                 folders are numbered in another order than the network's classes; check the layout of the data folder \
                 and `class_list` of data.params"
            );
        }
        "check that the checkpoint is the published one, and `resize` and the input size".into()
    }
}
