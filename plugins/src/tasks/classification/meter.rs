//! Top-1 and top-5 accuracy.

use super::accuracy::{deviation_of_share, logits, rank, top1, top5};
use qdrop_core::prelude::*;

/// Counts the images whose class has one of the largest logits.
#[derive(Debug, Default)]
pub struct AccuracyMeter {
    images: usize,
    top1: usize,
    top5: usize,
}

impl Meter for AccuracyMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        for (logits, target) in logits(outputs, targets)?.iter().zip(targets) {
            let rank = rank(logits, target.class()?);
            self.images += 1;
            self.top1 += usize::from(rank == Some(0));
            self.top5 += usize::from(rank.is_some_and(|r| r < 5));
        }
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        if self.images == 0 {
            return Err(Error::message("there is no image to measure the accuracy on"));
        }
        let mut measured = Measurement::new(self.images, [("", 0.0); 0]);
        for (metric, count) in [(top1(), self.top1), (top5(), self.top5)] {
            let share = count as f64 / self.images as f64;
            let error = 100.0 * deviation_of_share(share, self.images);
            measured.insert(&metric, 100.0 * count as f64 / self.images as f64, Some(error));
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Classification;
    use super::*;

    #[test]
    fn accuracies_are_shares_of_the_images_that_were_seen() {
        let mut meter = AccuracyMeter::default();
        assert!(meter.compute().unwrap_err().to_string().contains("there is no image"));
        // The logits decrease from class 0 to class 6, so a class is its own rank.
        let logits = |images: usize| {
            let row = Tensor::new(&[7.0_f32, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &Device::Cpu).unwrap();
            row.reshape((1, 7)).unwrap().broadcast_as((images, 7)).unwrap().contiguous().unwrap()
        };
        meter.update(&[logits(3)], &[0, 4, 5].map(Target::Class)).unwrap();
        meter.update(&[logits(1)], &[Target::Class(6)]).unwrap();
        let measured = meter.compute().unwrap();
        // The standard errors are 100 * sqrt(0.25 * 0.75 / 4) and 100 * sqrt(0.5 * 0.5 / 4).
        let errors = [("top1_standard_error", 100.0 * (0.1875_f64 / 4.0).sqrt()), ("top5_standard_error", 25.0)];
        let values = [("top1", 25.0), ("top5", 50.0)].into_iter().chain(errors);
        assert_eq!(measured, Measurement::new(4, values));

        let error = meter.update(&[logits(2)], &[Target::Class(0)]).unwrap_err().to_string();
        assert_eq!(error, "1 classes are given for the logits of 2 images");
        let error = meter.update(&[logits(1), logits(1)], &[Target::Class(0)]).unwrap_err().to_string();
        assert_eq!(error, "classification compares one output, 2 are given");
        let error = meter.update(&[logits(1)], &[Target::Values(vec![1.0])]).unwrap_err().to_string();
        assert!(error.contains("a class is expected"), "{error}");
        assert_eq!(meter.compute().unwrap(), measured);
    }

    #[test]
    fn networks_with_several_outputs_are_refused() {
        assert_eq!(Classification.targets(&[Output::Values(vec![10])]).unwrap(), TargetSpec::Class { classes: 10 });
        let error = Classification.targets(&[10, 4].map(|count| Output::Values(vec![count]))).unwrap_err().to_string();
        assert!(
            error.starts_with("task: classification needs a network with one output of logits, this one has 2 outputs"),
            "{error}"
        );
    }
}
