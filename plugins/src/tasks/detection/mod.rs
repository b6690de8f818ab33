//! Detection: the network finds objects in a picture, and says of each its class and its box.

mod agreement;
pub mod ap;
mod comparison;
mod draw;
mod meter;
mod names;
mod objects;
mod record;

use agreement::agreement;
use comparison::PublishedPrecision;
use meter::PrecisionMeter;
use qdrop_core::prelude::*;
use record::DetectionList;

struct Detection;

/// Average precision (AP) and its parts, as the COCO benchmark defines them, in the order of
/// [`AveragePrecision`](ap::AveragePrecision).
fn metrics() -> [Metric; 6] {
    [
        ("ap", "AP"),
        ("ap50", "AP50"),
        ("ap75", "AP75"),
        ("ap_small", "small"),
        ("ap_medium", "medium"),
        ("ap_large", "large"),
    ]
    .map(|(key, title)| Metric::percent(key, title))
}

impl Task for Detection {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        match outputs {
            [Output::Objects { labels, .. }] => Ok(TargetSpec::Objects { labels: *labels }),
            other => {
                let message = format!(
                    "detection needs a network whose head finds objects, this one has {}; choose another task or architecture",
                    Output::list(other)
                );
                Err(Error::setting("task", message))
            }
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        metrics().into()
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::<PrecisionMeter>::default())
    }

    fn image_metrics(&self) -> Vec<Metric> {
        vec![Metric::number("agreement", "agreement with float")]
    }

    fn image_values(&self, outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        let [own, float] = [objects::found(outputs, targets)?, objects::found(float, targets)?];
        Ok(own.iter().zip(&float).map(|(own, float)| vec![agreement(own, float)]).collect())
    }

    fn deviation_metrics(&self) -> Vec<Metric> {
        vec![Metric::number("disagreement", "1 - agreement")]
    }

    fn deviations(&self, outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        let images = match outputs {
            [output, ..] => output.dim(0)?,
            [] => 0,
        };
        let rows = self.image_values(outputs, float, &vec![Target::Unknown; images])?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(|agreement| 1.0 - agreement).collect()).collect())
    }

    fn record(&self, categories: &[(u64, String)]) -> Result<Option<Box<dyn Record>>> {
        Ok(Some(Box::new(DetectionList::new(categories))))
    }

    fn draw(
        &self,
        picture: &Picture,
        target: &Target,
        networks: &[Drawn<'_>],
        categories: &[(u64, String)],
    ) -> Result<Option<Picture>> {
        draw::draw(picture, target, networks, categories).map(Some)
    }

    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        if !(0.0..=100.0).contains(&published) {
            return Err(Error::message(format!("{published} is not an average precision in percent, from 0 to 100")));
        }
        Ok(Some(Box::new(PublishedPrecision::new(published))))
    }
}

register_task! {
    name: "detection", aliases: [], summary: "objects and their boxes: average precision (AP) of COCO",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(Detection))
    }
}
