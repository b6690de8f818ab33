//! Values of single images, and the comparison of two networks by them.
//!
//! Two networks that are measured on the same images differ by less than the standard error of each one suggests, because
//! most images are easy or hard for both. The differences image by image do not have this common part.

use super::interface::Task;
use super::measurement::{Metric, MetricUnit};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The values of one metric for each image, under one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageValues {
    /// The metric.
    pub metric: Metric,
    /// Its values, in the order of the images.
    pub values: Vec<f64>,
}

impl ImageValues {
    /// The image metrics of a task, without images.
    pub(crate) fn of_task(task: &dyn Task) -> Vec<Self> {
        task.image_metrics().into_iter().map(|metric| Self { metric, values: Vec::new() }).collect()
    }

    /// Adds the values of a batch, those of one image after the other.
    pub(crate) fn extend(all: &mut [Self], rows: Vec<Vec<f64>>) {
        for row in rows {
            all.iter_mut().zip(row).for_each(|(own, value)| own.values.push(value));
        }
    }

    /// Mean over the images; NaN if there are none.
    pub fn mean(&self) -> f64 {
        mean(&self.values)
    }

    /// Standard error of the mean, as the images are a sample: `sqrt(p (1 - p) / n)` for the share p of n images, and
    /// `s / sqrt(n)` with the sample's standard deviation s (divisor n - 1) for a mean. `None` for the mean of fewer than
    /// two images.
    pub fn standard_error(&self) -> Option<f64> {
        standard_error(&self.values, self.metric.unit)
    }

    /// Compares the network (A) with another one (B) on the same images in the same order.
    ///
    /// # Errors
    /// The metrics or the numbers of images differ.
    pub fn compare(&self, b: &Self) -> Result<PairedComparison> {
        if self.metric != b.metric || self.values.len() != b.values.len() {
            let text = |of: &Self| format!("'{}' of {} images", of.metric.key, of.values.len());
            return Err(Error::message(format!("{} cannot be compared with {}", text(self), text(b))));
        }
        let differences: Vec<f64> = self.values.iter().zip(&b.values).map(|(a, b)| b - a).collect();
        let unit = self.metric.unit;
        Ok(PairedComparison {
            metric: self.metric.clone(),
            a: self.mean(),
            a_standard_error: self.standard_error(),
            b: b.mean(),
            b_standard_error: b.standard_error(),
            difference: mean(&differences),
            difference_standard_error: standard_error(&differences, unit),
            counts: (unit == MetricUnit::Percent).then(|| PairCounts::of(&self.values, &b.values)),
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard error of the mean of values, or of differences of values, in this unit.
fn standard_error(values: &[f64], unit: MetricUnit) -> Option<f64> {
    let (n, mean) = (values.len() as f64, mean(values));
    let degrees = match unit {
        // With divisor n this is sqrt(p (1 - p) / n) of a share.
        MetricUnit::Percent => n,
        MetricUnit::Number => n - 1.0,
    };
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (degrees >= 1.0).then(|| (squares / degrees / n).sqrt())
}

/// One metric of two networks, A and B, on the same images. Its JSON has the metric's key outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedComparison {
    /// The metric.
    #[serde(skip)]
    pub metric: Metric,
    /// Mean of A.
    pub a: f64,
    /// Standard error of A's mean: see [`ImageValues::standard_error`].
    pub a_standard_error: Option<f64>,
    /// Mean of B.
    pub b: f64,
    /// Standard error of B's mean.
    pub b_standard_error: Option<f64>,
    /// Mean of B minus A.
    pub difference: f64,
    /// Standard error of the mean of the differences, image by image. For shares this is
    /// `sqrt(only_a + only_b - (only_b - only_a)^2 / n) / n`.
    pub difference_standard_error: Option<f64>,
    /// For a metric in percent, the images by what both networks give.
    #[serde(flatten)]
    pub counts: Option<PairCounts>,
}

/// A table of 2 x 2: how many images count as "yes" under two networks, A and B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairCounts {
    /// Under both.
    pub both: u64,
    /// Under A and not B.
    pub only_a: u64,
    /// Under B and not A.
    pub only_b: u64,
    /// Under neither of them.
    pub neither: u64,
    /// Two-sided p-value of McNemar's exact test (McNemar, Psychometrika 12, 1947). If both networks were equally good, each
    /// of the n images that only one of them gets would be an even chance, so the smaller count k of `only_a` and `only_b`
    /// would be binomial: p = min(1, 2 P(X <= k)) with X from Binomial(n, 1/2). It is 1 if there is no such image.
    pub mcnemar_p: f64,
}

impl PairCounts {
    fn of(a: &[f64], b: &[f64]) -> Self {
        let mut counts = [0; 4];
        for (a, b) in a.iter().zip(b) {
            counts[2 * usize::from(*a == 0.0) + usize::from(*b == 0.0)] += 1;
        }
        let [both, only_a, only_b, neither] = counts;
        Self { both, only_a, only_b, neither, mcnemar_p: mcnemar(only_a, only_b) }
    }
}

/// [`PairCounts::mcnemar_p`].
fn mcnemar(only_a: u64, only_b: u64) -> f64 {
    let (n, k) = (only_a + only_b, only_a.min(only_b));
    // ln(C(n, k) / 2^n): the term itself is too small for a number from about a thousand images on.
    let largest: f64 =
        (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>() - n as f64 * std::f64::consts::LN_2;
    // The other terms relative to it, from k - 1 down to 0: C(n, j - 1) / C(n, j) = j / (n - j + 1).
    let mut term = 1.0;
    let mut sum = 1.0;
    for j in (1..=k).rev() {
        term *= j as f64 / (n - j + 1) as f64;
        sum += term;
    }
    (2.0 * largest.exp() * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(values: &str) -> ImageValues {
        let values = values.chars().map(|c| if c == '1' { 100.0 } else { 0.0 }).collect();
        ImageValues { metric: Metric::percent("top1", "top-1"), values }
    }

    fn number(values: &[f64]) -> ImageValues {
        ImageValues { metric: Metric::number("kl", "KL"), values: values.into() }
    }

    #[track_caller]
    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-12 * want.abs(), "{got}, {want} is expected");
    }

    #[test]
    fn shares_are_compared_image_by_image() {
        let compared = share("11110000").compare(&share("11101110")).unwrap();
        assert_eq!((compared.a, compared.b, compared.difference), (50.0, 75.0, 25.0));
        // 100 sqrt(p (1 - p) / n)
        close(compared.a_standard_error.unwrap(), 100.0 * (0.25_f64 / 8.0).sqrt());
        close(compared.b_standard_error.unwrap(), 100.0 * (0.1875_f64 / 8.0).sqrt());
        // 100 sqrt(1 + 3 - (3 - 1)^2 / 8) / 8
        close(compared.difference_standard_error.unwrap(), 100.0 * 3.5_f64.sqrt() / 8.0);
        // 2 (C(4, 0) + C(4, 1)) / 2^4
        let want = PairCounts { both: 3, only_a: 1, only_b: 3, neither: 1, mcnemar_p: 0.625 };
        assert_eq!(compared.counts, Some(want));
    }

    #[test]
    fn means_are_compared_image_by_image() {
        let compared = number(&[1.0, 2.0, 6.0]).compare(&number(&[1.5, 2.0, 4.0])).unwrap();
        assert_eq!((compared.a, compared.b, compared.difference), (3.0, 2.5, -0.5));
        // Sample variance of A: (4 + 1 + 9) / 2; of the differences 0.5, 0, -2: (1 + 0.25 + 2.25) / 2.
        close(compared.a_standard_error.unwrap(), (7.0_f64 / 3.0).sqrt());
        close(compared.difference_standard_error.unwrap(), (1.75_f64 / 3.0).sqrt());
        assert_eq!(compared.counts, None);
        let one = number(&[1.0]).compare(&number(&[3.0])).unwrap();
        assert_eq!((one.difference, one.difference_standard_error), (2.0, None));
    }

    #[test]
    fn a_network_does_not_differ_from_itself() {
        let same = share("110").compare(&share("110")).unwrap();
        assert_eq!((same.difference, same.difference_standard_error), (0.0, Some(0.0)));
        assert_eq!(same.counts, Some(PairCounts { both: 2, only_a: 0, only_b: 0, neither: 1, mcnemar_p: 1.0 }));
        let error = share("110").compare(&share("11")).unwrap_err().to_string();
        assert_eq!(error, "'top1' of 3 images cannot be compared with 'top1' of 2 images");
        assert!(share("110").compare(&number(&[1.0; 3])).is_err());
    }

    /// Python's `Fraction(2 * sum(comb(n, j) for j in range(k + 1)), 2**n)`, with integers of any size.
    #[test]
    fn the_exact_test_gives_exact_values() {
        for (only_a, only_b, want) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (5, 5, 1.0),
            (6, 5, 1.0),
            (10, 3, 0.09228515625),
            (27, 34, 0.4426260049464714),
            (0, 30, 1.862645149230957e-09),
            (150, 250, 6.531819212838427e-07),
            (2400, 2600, 0.004883649737517518),
            (700, 1000, 3.5852615719385245e-13),
            (4900, 5300, 7.777315677877421e-05),
            (400, 1900, 7.834408892913271e-233),
        ] {
            let (got, swapped): (f64, f64) = (mcnemar(only_a, only_b), mcnemar(only_b, only_a));
            assert_eq!(got, swapped);
            assert!((got - want).abs() <= 1e-11 * want, "{only_a} and {only_b}: {got}, {want} is expected");
        }
        // 2^-1999 is no number.
        assert_eq!(mcnemar(0, 2000), 0.0);
    }
}
