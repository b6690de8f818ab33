//! Building blocks of the classification task: accuracies, their error, and logits.

use qdrop_core::prelude::*;

/// Percent of images whose class has the largest logit.
pub const TOP1: &str = "top1";
/// Percent of images whose class has one of the five largest logits.
pub const TOP5: &str = "top5";

/// Top-1 accuracy in percent.
pub fn top1(measurement: &Measurement) -> Result<f64> {
    measurement.value(&Metric::percent(TOP1, "top-1"))
}

/// Standard deviation of the share of successes in `count` independent trials (binomial distribution).
pub fn deviation_of_share(share: f64, count: usize) -> f64 {
    (share * (1.0 - share) / count.max(1) as f64).sqrt()
}

/// The logits of each image of a batch.
pub fn logits(outputs: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f32>>> {
    let [output] = outputs else {
        return Err(Error::message(format!("classification compares one output, {} are given", outputs.len())));
    };
    let logits = output.flatten_from(1)?.to_vec2()?;
    if logits.len() != targets.len() {
        let message = format!("{} classes are given for the logits of {} images", targets.len(), logits.len());
        return Err(Error::message(message));
    }
    Ok(logits)
}
