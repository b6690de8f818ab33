//! What classification measures on single images: whether the class is right, and how far the outputs are from those of
//! the float network.

use super::accuracy::{logits, rank, top1};
use qdrop_core::prelude::*;

/// Top-1, agreement with the float network, and KL divergence from it.
pub fn metrics() -> Vec<Metric> {
    [vec![top1()], metrics_without_labels()].concat()
}

/// Agreement with the float network, and KL divergence from it.
pub fn metrics_without_labels() -> Vec<Metric> {
    vec![Metric::percent("agreement", "agreement"), Metric::number("kl", "KL (nats)")]
}

/// For each image: 100 if its class has the largest logit, 100 if the float network's largest logit is of the same class as
/// this one's, and KL(float || quantized) of the softmax probabilities in nats.
pub fn values(outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
    let rows = values_without_labels(outputs, float, targets)?;
    let outputs = logits(outputs, targets)?;
    let rows = rows.into_iter().zip(&outputs).zip(targets).map(|((row, own), target)| {
        let right = percent(rank(own, target.class()?) == Some(0));
        Ok([vec![right], row].concat())
    });
    rows.collect()
}

/// The values of [`values`] that need no class.
pub fn values_without_labels(outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
    let (outputs, float) = (logits(outputs, targets)?, logits(float, targets)?);
    let rows = outputs.iter().zip(&float).map(|(own, float)| {
        if own.len() != float.len() {
            let (own, float) = (own.len(), float.len());
            return Err(Error::message(format!("{own} logits cannot be compared with {float} of the float network")));
        }
        Ok(vec![percent(predicted(own) == predicted(float)), divergence(float, own)])
    });
    rows.collect()
}

/// KL divergence from the float network, and agreement with it.
pub fn deviation_metrics() -> Vec<Metric> {
    metrics_without_labels().into_iter().rev().collect()
}

/// The values of [`deviation_metrics`].
pub fn deviations(outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let images = match outputs {
        [output, ..] => output.dim(0)?,
        [] => 0,
    };
    let mut rows = values_without_labels(outputs, float, &vec![Target::Unknown; images])?;
    rows.iter_mut().for_each(|row| row.reverse());
    Ok(rows)
}

fn percent(yes: bool) -> f64 {
    if yes {
        100.0
    } else {
        0.0
    }
}

/// The class with the largest logit; of equal ones the smaller class, as in [`rank`].
fn predicted(logits: &[f32]) -> Option<usize> {
    let larger = |best: (usize, f32), (class, logit): (usize, f32)| if logit > best.1 { (class, logit) } else { best };
    logits.iter().copied().enumerate().reduce(larger).map(|(class, _)| class)
}

/// KL(p || q) = sum of p ln(p / q) in nats (Kullback and Leibler 1951), where p and q are the softmax of `of` and `from`.
fn divergence(of: &[f32], from: &[f32]) -> f64 {
    let terms = log_softmax(of).zip(log_softmax(from)).map(|(p, q)| p.exp() * (p - q));
    match terms.sum::<f64>() {
        // Only rounding makes it negative.
        sum if sum <= 0.0 => 0.0,
        sum => sum,
    }
}

/// Logarithms of the softmax probabilities. The largest logit is subtracted first, so that no exponential overflows.
fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f64> + use<'_> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, v| largest.max(f64::from(*v)));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - largest).exp()).sum();
    let shift = largest + sum.ln();
    logits.iter().map(move |v| f64::from(*v) - shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: &[&[f32]]) -> Tensor {
        Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_divergence_is_that_of_the_probabilities() {
        let ln3 = 3.0_f32.ln();
        // p = (1/4, 3/4), q = (1/2, 1/2): 1/4 ln(1/2) + 3/4 ln(3/2) and 1/2 ln(2) + 1/2 ln(2/3).
        assert!((divergence(&[0.0, ln3], &[7.0, 7.0]) - 0.130_812_035_941_137).abs() < 1e-7);
        assert!((divergence(&[7.0, 7.0], &[0.0, ln3]) - 0.143_841_036_225_890).abs() < 1e-7);
        assert_eq!(divergence(&[0.3, -1.7, 2.9], &[0.3, -1.7, 2.9]), 0.0);
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        assert_eq!(divergence(&[1000.0, 0.0], &[0.0, 1000.0]), 1000.0);
        assert_eq!(divergence(&[3.0e38, -3.0e38], &[3.0e38, -3.0e38]), 0.0);
        // The probabilities do not depend on a shift.
        let (low, high) =
            (divergence(&[0.5, 2.0], &[1.0, 0.25]), divergence(&[10_000.5, 10_002.0], &[-999.0, -999.75]));
        assert!((low - high).abs() < 1e-12 && low > 0.1, "{low} {high}");
        assert!(divergence(&[f32::NAN, 0.0], &[0.0, 0.0]).is_nan() && divergence(&[0.0; 2], &[0.0, f32::NAN]).is_nan());
    }

    #[test]
    fn an_image_is_right_and_agrees_by_its_largest_logit() {
        let own = tensor(&[&[0.0, 2.0, 1.0], &[0.0, 2.0, 1.0], &[1.0, 1.0, 0.0]]);
        let float = tensor(&[&[0.0, 2.0, 1.0], &[2.0, 0.0, 1.0], &[0.0, 1.0, 1.0]]);
        let targets = [1, 0, 0].map(Target::Class);
        let rows = values(std::slice::from_ref(&own), &[float], &targets).unwrap();
        // Of equal logits the smaller class counts: the third image is 0 here and 1 by the float network.
        let shares: Vec<_> = rows.iter().map(|row| (row[0], row[1])).collect();
        assert_eq!(shares, [(100.0, 100.0), (0.0, 0.0), (100.0, 0.0)]);
        assert_eq!(rows[0][2], 0.0);
        assert!(rows[1][2] > 0.5);

        let error =
            values(&[own], &[tensor(&[&[0.0, 0.0], &[0.0, 0.0], &[0.0, 0.0]])], &targets).unwrap_err().to_string();
        assert_eq!(error, "3 logits cannot be compared with 2 of the float network");
    }
}
