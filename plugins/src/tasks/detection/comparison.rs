//! Finds out why a float network is far below its published average precision.

use super::{metrics, objects};
use qdrop_core::prelude::*;

/// Share of the published value that a sample may lie below it, besides three standard errors.
const ALLOWED: f64 = 0.25;

/// What is found, to name the likely cause.
#[derive(Debug)]
pub struct PublishedPrecision {
    /// Published average precision in percent.
    published: f64,
    images: usize,
    /// Objects with a score of at least one half.
    sure: usize,
}

impl PublishedPrecision {
    pub fn new(published: f64) -> Self {
        Self { published, images: 0, sure: 0 }
    }
}

impl Comparison for PublishedPrecision {
    fn observe(&mut self, _: &Tensor, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        for found in objects::found(outputs, targets)? {
            self.images += 1;
            self.sure += found.iter().filter(|o| o.score >= 0.5).count();
        }
        Ok(())
    }

    fn problem(&self, measured: &Measurement) -> Result<Option<String>> {
        let [metric, ..] = metrics();
        let value = measured.value(&metric)?;
        let noise = measured.standard_error(&metric).unwrap_or(0.0);
        if value >= self.published * (1.0 - ALLOWED) - 3.0 * noise {
            return Ok(None);
        }
        let each = self.sure as f64 / self.images.max(1) as f64;
        let cause = if each < 0.2 {
            format!(
                "it is sure of only {each:.2} objects a picture, as an untrained network or one that gets other pixels is; check \
                 that model.weights is a trained checkpoint, and `variant` and `norm_eps` of model.architecture and \
                 `preprocessing` of data.params"
            )
        } else {
            format!(
                "it is sure of {each:.1} objects a picture, but they are of other classes or in other places; check that \
                 `variant` of model.architecture and `preprocessing` of data.params are of the same family, and that the \
                 categories of the annotations are those of the training"
            )
        };
        let Self { published, images, .. } = self;
        Ok(Some(format!(
            "the float network has an AP of {value:.1} on {images} pictures, {published:.1} is published: {cause}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_far_below_are_a_problem() {
        let mut comparison = PublishedPrecision::new(40.0);
        let row = [0.0_f32, 0.0, 9.0, 9.0, 0.9, 1.0];
        let output = Tensor::from_slice(&row, (1, 1, 6), &Device::Cpu).unwrap();
        let image = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap();
        let problem = |comparison: &PublishedPrecision, ap: f64| {
            let measured = Measurement::new(1, [("ap", ap), ("ap_standard_error", 2.0)]);
            comparison.problem(&measured).unwrap()
        };
        // A quarter of 40, and three standard errors.
        assert_eq!(problem(&comparison, 24.1), None);
        let unsure = problem(&comparison, 23.9).unwrap();
        assert!(unsure.contains("sure of only 0.00 objects a picture"), "{unsure}");
        comparison.observe(&image, &[output], &[Target::Unknown]).unwrap();
        let sure = problem(&comparison, 10.0).unwrap();
        assert!(sure.starts_with("the float network has an AP of 10.0 on 1 pictures, 40.0 is published"), "{sure}");
        assert!(sure.contains("of other classes or in other places"), "{sure}");
    }
}
