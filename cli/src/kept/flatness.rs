//! The loss around the weights of a result.

use qdrop_core::pipeline::Curve;
use qdrop_core::task::Metric;
use serde::{Deserialize, Serialize};

/// The loss around the weights of a quantized network, on calibration and on evaluation images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flatness {
    /// What the loss is: how far the network's results are from the float network's.
    pub metric: Metric,
    /// On calibration images.
    pub calibration: Curves,
    /// On evaluation images.
    pub evaluation: Curves,
}

/// Curves on the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// Number of images.
    pub images: usize,
    /// The loss along two directions, with and without quantized activations.
    pub curves: Vec<Curve>,
}

impl Flatness {
    /// Its file in the folder of a run.
    pub const FILE: &'static str = "flatness.json";
    /// The same as a table, in the folder of a run.
    pub const TABLE: &'static str = "flatness.csv";
    /// The figure, in the folder of a run.
    pub const FIGURE: &'static str = "flatness.svg";

    /// All points as comma-separated values, with one line of names.
    pub fn csv(&self) -> String {
        let mut text = "images,direction,activations,distance,loss,standard_error\n".to_string();
        for (images, all) in [("calibration", &self.calibration), ("evaluation", &self.evaluation)] {
            for curve in &all.curves {
                let direction = curve.direction.name();
                let activations = if curve.activations { "quantized" } else { "float" };
                for point in &curve.points {
                    let error = point.standard_error.map(|error| error.to_string()).unwrap_or_default();
                    text += &format!("{images},{direction},{activations},{},{},{error}\n", point.distance, point.loss);
                }
            }
        }
        text
    }
}
