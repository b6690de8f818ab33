//! Classification: one output, whose largest number (logit) is that of the image's class.

mod comparison;
mod meter;

use comparison::PublishedAccuracy;
use meter::AccuracyMeter;
use qdrop_core::prelude::*;

/// Percent of images whose class has the largest logit.
const TOP1: &str = "top1";
/// Percent of images whose class is among the five largest logits.
const TOP5: &str = "top5";

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

    /// That of a share: images are right independently of each other.
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

fn top1(measurement: &Measurement) -> Result<f64> {
    measurement.value(&Metric::percent(TOP1, "top-1"))
}

/// Standard deviation of the share of right ones among `count` independent trials (binomial distribution).
fn deviation_of_share(share: f64, count: usize) -> f64 {
    (share * (1.0 - share) / count.max(1) as f64).sqrt()
}

/// The logits of each image of a batch.
fn logits(outputs: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f32>>> {
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

register_task! {
    name: "classification", aliases: [], summary: "the class of an image: top-1 and top-5 accuracy",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(Classification))
    }
}
