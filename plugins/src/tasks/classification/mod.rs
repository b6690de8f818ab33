//! Classification: the network has one output, and the largest element (logit) is that of the image's class.

mod accuracy;
mod comparison;
mod meter;

use accuracy::{deviation_of_share, top1, TOP1, TOP5};
use comparison::PublishedAccuracy;
use meter::AccuracyMeter;
use qdrop_core::prelude::*;

struct Classification;

impl Task for Classification {
    fn targets(&self, outputs: &[&[usize]]) -> Result<TargetSpec> {
        match outputs {
            [shape] => Ok(TargetSpec::Class { classes: shape.iter().product() }),
            many => {
                let message = format!(
                    "classification needs a network with one output, this one has {}; choose another task or architecture",
                    many.len()
                );
                Err(Error::setting("task", message))
            }
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::percent(TOP1, "top-1"), Metric::percent(TOP5, "top-5")]
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::<AccuracyMeter>::default())
    }

    /// The standard error of a share: images are classified right or wrong independently of each other.
    fn standard_error(&self, measurement: &Measurement) -> Result<Option<f64>> {
        let share = top1(measurement)? / 100.0;
        Ok(Some(100.0 * deviation_of_share(share, measurement.images)))
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
