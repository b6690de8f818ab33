//! Average precision against that of pycocotools 2.0.11 (`average_precision_golden.py` wrote the expected values).

use crate::support::*;
use qdrop_plugins::tasks::detection::ap::{average_precision, Found, Picture, Truth, GROUPS};
use serde::Deserialize;

/// A set of pictures and the first six of `COCOeval.stats`.
#[derive(Deserialize)]
struct Set {
    pictures: Vec<Row>,
    /// -1 where there is no true box to find.
    stats: [f64; 6],
}

#[derive(Deserialize)]
struct Row {
    id: u64,
    /// Label, x, y, width, height, area, crowd (0 or 1).
    truth: Vec<(usize, f64, f64, f64, f64, f64, u8)>,
    /// Label, x, y, width, height, score.
    found: Vec<(usize, f64, f64, f64, f64, f64)>,
}

impl Row {
    fn picture(&self) -> Picture {
        let truth = self.truth.iter().map(|&(label, x, y, w, h, area, crowd)| {
            let bbox = [x, y, w, h];
            Truth { label, bbox, area, crowd: crowd == 1 }
        });
        let found = self.found.iter().map(|&(label, x, y, w, h, score)| Found { label, bbox: [x, y, w, h], score });
        Picture { id: self.id, truth: truth.collect(), found: found.collect() }
    }
}

#[test]
fn random_sets_are_those_of_pycocotools() {
    let text = std::fs::read_to_string(fixture("golden/average_precision.json")).unwrap();
    let sets: Vec<Set> = serde_json::from_str(&text).unwrap();
    assert_eq!(sets.len(), 4);
    for (i, set) in sets.iter().enumerate() {
        let mut pictures: Vec<Picture> = set.pictures.iter().map(Row::picture).collect();
        pictures.reverse();
        let values: [Option<f64>; 6] = average_precision(&pictures, GROUPS).unwrap().value.into();
        for (value, wanted) in values.into_iter().zip(set.stats) {
            let difference = (value.unwrap_or(-1.0) - wanted).abs();
            assert!(difference < 1e-9, "set {i}: {value:?}, pycocotools {wanted}");
        }
    }
}
