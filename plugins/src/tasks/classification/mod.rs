//! Classification: the network has one output, and the largest element (logit) is that of the image's class.

mod accuracy;
mod comparison;
mod images;
mod meter;
mod unlabelled;

use comparison::PublishedAccuracy;
use meter::AccuracyMeter;
use qdrop_core::prelude::*;

struct Classification;

impl Task for Classification {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        match outputs {
            [Output::Values(shape)] => Ok(TargetSpec::Class { classes: shape.iter().product() }),
            other => {
                let message = format!(
                    "classification needs a network with one output of logits, this one has {}; choose another task or \
                     architecture",
                    Output::list(other)
                );
                Err(Error::setting("task", message))
            }
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![accuracy::top1(), accuracy::top5()]
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::<AccuracyMeter>::default())
    }

    fn image_metrics(&self) -> Vec<Metric> {
        images::metrics()
    }

    fn image_values(&self, outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        images::values(outputs, float, targets)
    }

    fn deviation_metrics(&self) -> Vec<Metric> {
        images::deviation_metrics()
    }

    fn deviations(&self, outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        images::deviations(outputs, float)
    }

    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        if !(0.0..=100.0).contains(&published) {
            return Err(Error::message(format!("{published} is not a top-1 accuracy in percent, from 0 to 100")));
        }
        Ok(Some(Box::new(PublishedAccuracy::new(published))))
    }
}

register_task! {
    name: "classification", aliases: [], summary: "the class of an image: top-1 and top-5 accuracy",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(Classification))
    }
}
