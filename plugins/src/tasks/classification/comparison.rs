//! Finds out why a float network is far below its published accuracy.

use super::accuracy::{deviation_of_share, logits, top1};
use qdrop_core::prelude::*;
use std::collections::HashMap;

/// Points below the published accuracy that are allowed besides sampling noise, for another image decoder,
/// another crop or another version of the weights.
const ALLOWED: f64 = 5.0;

/// Statistics of images and logits that help to find the cause of a low accuracy.
#[derive(Debug)]
pub struct PublishedAccuracy {
    /// Published top-1 in percent.
    published: f64,
    images: usize,
    /// How often each class was predicted.
    predicted: HashMap<usize, usize>,
    /// Sum of the largest softmax probabilities.
    confidence: f64,
    /// Number, sum and sum of squares of the network's inputs.
    inputs: (f64, f64, f64),
}

impl PublishedAccuracy {
    pub fn new(published: f64) -> Self {
        Self { published, images: 0, predicted: HashMap::new(), confidence: 0.0, inputs: (0.0, 0.0, 0.0) }
    }

    fn add_inputs(&mut self, values: &[f32]) {
        let (count, sum, squares) = &mut self.inputs;
        *count += values.len() as f64;
        *sum += values.iter().map(|v| f64::from(*v)).sum::<f64>();
        *squares += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }

    fn add_logits(&mut self, logits: &[f32]) {
        let Some((class, largest)) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) else { return };
        self.images += 1;
        *self.predicted.entry(class).or_default() += 1;
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        self.confidence += 1.0 / sum;
    }

    /// The most likely reason for the accuracy `top1`.
    fn cause(&self, top1: f64) -> String {
        let (count, sum, squares) = self.inputs;
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0).sqrt();
        if mean.abs() > 1.5 || !(0.5..=2.0).contains(&deviation) {
            return format!(
                "the network's inputs have the mean {mean:.2} and the standard deviation {deviation:.2}, normalized \
                 images have about 0 and 1; check the normalization (`mean` and `std` of data.params)"
            );
        }
        let images = self.images.max(1) as f64;
        let (class, most) = self.predicted.iter().max_by_key(|(class, n)| (**n, **class)).unwrap_or((&0, &0));
        let (share, confidence) = (*most as f64 / images, self.confidence / images);
        if share > 0.5 || confidence < 0.25 {
            return format!(
                "it predicts class {class} for {:.0} % of the images with a mean confidence of {confidence:.2}, as an \
                 untrained network does; check that model.weights is a trained checkpoint of this architecture",
                100.0 * share
            );
        }
        if top1 < 10.0 {
            return format!(
                "it is sure of its predictions (mean confidence {confidence:.2}), but they are other classes: the class \
                 folders are numbered in another order than the network's classes; check the layout of the data folder \
                 and `class_list` of data.params"
            );
        }
        "check that the checkpoint is the published one, and `resize` and the input size".into()
    }
}

impl Comparison for PublishedAccuracy {
    fn observe(&mut self, images: &Tensor, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        ops::host_values(images, |values| self.add_inputs(values))?;
        for logits in logits(outputs, targets)? {
            self.add_logits(&logits);
        }
        Ok(())
    }

    fn problem(&self, measured: &Measurement) -> Result<Option<String>> {
        let top1 = measured.value(&top1())?;
        let noise = 100.0 * deviation_of_share(self.published / 100.0, measured.images);
        if top1 >= self.published - 3.0 * noise - ALLOWED {
            return Ok(None);
        }
        Ok(Some(format!(
            "the float network classifies {top1:.1} % of {} images correctly, {:.1} % are published: {}",
            measured.images,
            self.published,
            self.cause(top1)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for a network that reached `top1` percent on 100 images, when 70 % are published.
    fn problem(top1: f64, inputs: [f32; 2], logits: &[f32]) -> Option<String> {
        let mut comparison = PublishedAccuracy::new(70.0);
        let images = Tensor::new(&[[[inputs]]], &Device::Cpu).unwrap();
        for place in 0..logits.len() {
            // Each time another class has the largest logit.
            let rotated = [&logits[place..], &logits[..place]].concat();
            let output = Tensor::from_vec(rotated, (1, logits.len()), &Device::Cpu).unwrap();
            comparison.observe(&images, &[output], &[Target::Class(0)]).unwrap();
        }
        comparison.problem(&Measurement::new(100, [("top1", top1)])).unwrap()
    }

    #[test]
    fn only_accuracies_beyond_chance_are_a_problem() {
        // Three standard errors of 70 % on 100 images are 13.7 points.
        let sure = [9.0, 0.0, 0.0];
        assert_eq!(problem(51.3, [-1.0, 1.0], &sure), None);
        let message = problem(51.2, [-1.0, 1.0], &sure).unwrap();
        assert!(
            message.starts_with("the float network classifies 51.2 % of 100 images correctly, 70.0 % are published")
        );
        assert!(message.contains("check that the checkpoint is the published one"), "{message}");
    }

    #[test]
    fn the_cause_follows_from_inputs_and_confidence() {
        let sure = [9.0, 0.0, 0.0];
        assert!(problem(2.0, [0.0, 255.0], &sure)
            .unwrap()
            .contains("the mean 127.50 and the standard deviation 127.50"));
        assert!(problem(2.0, [-1.0, 1.0], &sure).unwrap().contains("numbered in another order"));
        // Softmax of equal logits of five classes: 0.2.
        let unsure = problem(2.0, [-1.0, 1.0], &[0.0; 5]).unwrap();
        assert!(unsure.contains("mean confidence of 0.20, as an untrained network does"), "{unsure}");
    }
}
