//! Building blocks of the classification task: accuracies, their error, and logits.

use qdrop_core::prelude::*;

/// Percent of images whose class has the largest logit.
pub fn top1() -> Metric {
    Metric::percent("top1", "top-1")
}

/// Percent of images whose class has one of the five largest logits.
pub fn top5() -> Metric {
    Metric::percent("top5", "top-5")
}

/// Number of classes that rank before the image's class; of equal logits the smaller class ranks first. `None` if
/// the class's logit does not exist or is NaN.
pub fn rank(logits: &[f32], class: usize) -> Option<usize> {
    let own = logits.get(class).copied().filter(|v| !v.is_nan())?;
    Some(logits.iter().enumerate().filter(|(i, v)| **v > own || (**v == own && *i < class)).count())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_break_ties_by_index() {
        assert_eq!(rank(&[0.1, 0.9, 0.9], 1), Some(0));
        assert_eq!(rank(&[0.1, 0.9, 0.9], 2), Some(1));
        assert_eq!(rank(&[f32::NAN, 1.0], 0), None);
        assert_eq!(rank(&[1.0], 3), None);
    }
}
