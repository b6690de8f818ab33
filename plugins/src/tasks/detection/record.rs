//! Detections in the format of the COCO benchmark's results.

use super::objects;
use qdrop_core::prelude::*;
use serde::Serialize;
use std::fmt::Write;

/// A list of all detections: objects with the picture's number, the category's number, the box (left, top, width, height) and
/// the score.
pub struct DetectionList {
    /// Numbers of the categories, in the dataset's order.
    categories: Vec<u64>,
    text: String,
}

#[derive(Serialize)]
struct Row {
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    score: f64,
}

impl DetectionList {
    pub fn new(categories: &[(u64, String)]) -> Self {
        Self { categories: categories.iter().map(|(id, _)| *id).collect(), text: String::new() }
    }
}

impl Record for DetectionList {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        for (found, target) in objects::found(outputs, targets)?.iter().zip(targets) {
            let Objects { picture, labels, .. } = target.objects()?;
            for object in found {
                let category_id = match labels {
                    Labels::ByCategory { .. } => object.label as u64,
                    Labels::InOrder { .. } => self.categories.get(object.label).copied().ok_or_else(|| {
                        let (label, known) = (object.label, self.categories.len());
                        Error::message(format!("the dataset has {known} categories, none for the label {label}"))
                    })?,
                };
                let score = f64::from(object.score);
                let row = Row { image_id: *picture, category_id, bbox: object.bbox(), score };
                let row = serde_json::to_string(&row).map_err(Error::message)?;
                let before = if self.text.is_empty() { "" } else { ",\n" };
                write!(self.text, "{before}{row}").map_err(Error::message)?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<String> {
        Ok(format!("[{}]\n", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_benchmark() {
        let categories = [(3, "car".to_string()), (17, "cat".to_string())];
        let rows: Vec<f32> = [[1.5, 2.0, 4.0, 10.0, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]].concat();
        let output = Tensor::from_vec(rows, (1, 2, 6), &Device::Cpu).unwrap();
        let written = |labels| {
            let mut list = DetectionList::new(&categories);
            let target = Target::Objects(Objects { picture: 9, labels, objects: Vec::new() });
            list.update(std::slice::from_ref(&output), &[target]).unwrap();
            list.finish().unwrap()
        };
        let row = |category: u64| {
            format!("[{{\"image_id\":9,\"category_id\":{category},\"bbox\":[1.5,2.0,2.5,8.0],\"score\":0.75}}]\n")
        };
        assert_eq!(written(Labels::InOrder { classes: 2 }), row(17));
        assert_eq!(written(Labels::ByCategory { below: 91 }), row(1));
        assert_eq!(DetectionList::new(&categories).finish().unwrap(), "[]\n");
    }
}
