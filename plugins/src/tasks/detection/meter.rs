//! Average precision over the images of a dataset.

use super::ap::{average_precision, Found, Picture, Truth, GROUPS};
use super::{metrics, objects};
use qdrop_core::prelude::*;

/// Value of a metric where there is no true box of the kind that it is about, as pycocotools says it (times 100 percent).
const NONE: f64 = -1.0;

/// Collects what is true and what was found.
#[derive(Debug, Default)]
pub struct PrecisionMeter {
    pictures: Vec<Picture>,
}

impl Meter for PrecisionMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        let all = objects::found(outputs, targets)?;
        for (found, target) in all.iter().zip(targets) {
            let Objects { picture, objects, .. } = target.objects()?;
            let truth = |o: &Object| Truth { label: o.label, bbox: o.bbox, area: o.area, crowd: o.crowd };
            let found = found.iter().map(|o| Found { label: o.label, bbox: o.bbox(), score: f64::from(o.score) });
            self.pictures.push(Picture {
                id: *picture,
                truth: objects.iter().map(truth).collect(),
                found: found.collect(),
            });
        }
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        let estimate = average_precision(&self.pictures, GROUPS).map_err(Error::message)?;
        let [values, errors]: [[Option<f64>; 6]; 2] = [estimate.value.into(), estimate.standard_error.into()];
        if values[0].is_none() {
            let count = self.pictures.len();
            let message = format!("there is no object in {count} pictures to measure the average precision on");
            return Err(Error::message(message));
        }
        let mut measured = Measurement::new(self.pictures.len(), [("", 0.0); 0]);
        for ((metric, value), error) in metrics().iter().zip(values).zip(errors) {
            measured.insert(metric, value.map_or(NONE, |v| 100.0 * v), error.map(|e| 100.0 * e));
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(picture: u64, objects: &[(usize, [f64; 4])]) -> Target {
        let object = |&(label, bbox): &(usize, [f64; 4])| Object { label, bbox, area: bbox[2] * bbox[3], crowd: false };
        let labels = Labels::InOrder { classes: 2 };
        Target::Objects(Objects { picture, labels, objects: objects.iter().map(object).collect() })
    }

    #[test]
    fn found_objects_are_measured() {
        let mut meter = PrecisionMeter::default();
        assert!(meter.compute().unwrap_err().to_string().contains("there is no object in 0 pictures"));
        // Picture 7: both found, best first. Picture 9: one found, of two. The last row of each is unused.
        let rows: Vec<f32> = [
            [10.0, 10.0, 110.0, 110.0, 0.9, 1.0],
            [20.0, 20.0, 40.0, 40.0, 0.8, 1.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, -1.0],
            [10.0, 10.0, 110.0, 110.0, 0.7, 1.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, -1.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, -1.0],
        ]
        .concat();
        let output = Tensor::from_vec(rows, (2, 3, 6), &Device::Cpu).unwrap();
        let (large, small) = ([10.0, 10.0, 100.0, 100.0], [20.0, 20.0, 20.0, 20.0]);
        let targets = [target(7, &[(1, large), (1, small)]), target(9, &[(1, large), (1, [200.0, 0.0, 100.0, 100.0])])];
        meter.update(std::slice::from_ref(&output), &targets).unwrap();
        let measured = meter.compute().unwrap();
        let value = |key: &str| measured.values[key];
        // Precision is 1 up to a recall of 3/4: 76 of 101 points.
        assert!((value("ap") - 7600.0 / 101.0).abs() < 1e-9, "{}", value("ap"));
        assert_eq!((value("ap50"), value("ap_medium")), (value("ap"), NONE));
        assert!((value("ap_small") - 100.0).abs() < 1e-9);
        // Two of three large ones: 67 points.
        assert!((value("ap_large") - 6700.0 / 101.0).abs() < 1e-9);
        assert_eq!(measured.images, 2);
        let error =
            meter.update(std::slice::from_ref(&output), &[Target::Class(0), Target::Class(1)]).unwrap_err().to_string();
        assert_eq!(error, "the target of an image is class 0, objects are expected");
        let error = meter.update(&[output], &targets[..1]).unwrap_err().to_string();
        assert!(error.contains("the targets of 1 images for objects of the shape [2, 3, 6]"), "{error}");
    }
}
