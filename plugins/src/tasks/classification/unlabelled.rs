//! Classification of images whose classes nobody knows: the quantized network is compared with the float one alone.

use super::accuracy::logits;
use super::images::{deviation_metrics, deviations, metrics_without_labels, values_without_labels};
use qdrop_core::prelude::*;

struct Unlabelled;

impl Task for Unlabelled {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        match outputs {
            [Output::Values(_)] => Ok(TargetSpec::Nothing),
            other => {
                let message = format!(
                    "logits are compared of a network with one output of them, this one has {}; choose another task or \
                     architecture",
                    Output::list(other)
                );
                Err(Error::setting("task", message))
            }
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::<Count>::default())
    }

    fn image_metrics(&self) -> Vec<Metric> {
        metrics_without_labels()
    }

    fn image_values(&self, outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        values_without_labels(outputs, float, targets)
    }

    fn deviation_metrics(&self) -> Vec<Metric> {
        deviation_metrics()
    }

    fn deviations(&self, outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        deviations(outputs, float)
    }
}

/// Counts the images: without a class there is nothing to measure of a single network.
#[derive(Debug, Default)]
struct Count(usize);

impl Meter for Count {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        logits(outputs, targets)?;
        if let Some(known) = targets.iter().find(|target| **target != Target::Unknown) {
            return Err(Error::message(format!("the target of an image is {known}, none is expected")));
        }
        self.0 += targets.len();
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        match self.0 {
            0 => Err(Error::message("there is no image to compare networks on")),
            images => Ok(Measurement::new(images, [("", 0.0); 0])),
        }
    }
}

register_task! {
    name: "unlabelled", aliases: [],
    summary: "the class of an image, without labels: agreement with the float network and KL divergence from it",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(Unlabelled))
    }
}
