//! Measuring accuracy.

use super::load_ahead;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::progress::{Event, Progress};
use serde::{Deserialize, Serialize};

/// Share of correctly classified images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Percent of images whose class has the largest logit.
    pub top1: f64,
    /// Percent of images whose class is among the five largest logits.
    pub top5: f64,
    /// Number of images.
    pub images: usize,
    /// Images that could not be read; they do not count.
    pub broken: usize,
}

/// Classifies the first `limit` images of the dataset (all by default).
///
/// # Errors
/// No image can be read, or the images do not fit the network.
pub fn evaluate(
    model: &QuantModel,
    dataset: &dyn Dataset,
    precision: Precision,
    batch_size: usize,
    limit: Option<usize>,
    progress: &dyn Progress,
) -> Result<Accuracy> {
    let total = limit.map_or(dataset.len(), |l| l.min(dataset.len()));
    let stage = match precision {
        Precision::Float => "evaluating float",
        Precision::Quantized => "evaluating quantized",
    };
    progress.event(Event::Started { stage, total });
    let (mut seen, mut top1, mut top5, mut broken) = (0, 0, 0, 0);
    let indices: Vec<usize> = (0..total).collect();
    let batches = indices.chunks(batch_size.max(1));
    let mut inference = Inference::of_network(model, precision)?;
    load_ahead(dataset, batches, model.graph().input_shape(), model.device(), |batch| {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        broken += batch.broken.len();
        for message in batch.broken {
            progress.event(Event::Warning(format!("not counted: {message}")));
        }
        let outputs = inference.forward(&batch.images)?;
        let [logits] = outputs.as_slice() else { return Err(Error::message("a classifier has one output")) };
        let logits = logits.flatten_from(1)?.to_vec2::<f32>()?;
        for (logits, label) in logits.iter().zip(&batch.labels) {
            let rank = rank(logits, *label);
            seen += 1;
            top1 += usize::from(rank == Some(0));
            top5 += usize::from(rank.is_some_and(|r| r < 5));
        }
        progress.event(Event::Advanced(seen + broken));
        Ok(())
    })?;
    progress.event(Event::Finished);
    let percent = |n: usize| 100.0 * n as f64 / seen.max(1) as f64;
    Ok(Accuracy { top1: percent(top1), top5: percent(top5), images: seen, broken })
}

/// How many classes come before the label's; earlier classes win ties. `None` when the label's
/// logit does not exist or is NaN.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    let own = logits.get(label).copied().filter(|v| !v.is_nan())?;
    Some(logits.iter().enumerate().filter(|(i, v)| **v > own || (**v == own && *i < label)).count())
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn ranks_break_ties_by_index() {
        assert_eq!(rank(&[0.1, 0.9, 0.9], 1), Some(0));
        assert_eq!(rank(&[0.1, 0.9, 0.9], 2), Some(1));
        assert_eq!(rank(&[f32::NAN, 1.0], 0), None);
        assert_eq!(rank(&[1.0], 3), None);
    }
}
