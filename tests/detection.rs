//! Detectors against torchvision, and against mmdetection's rules. With the same weights and images, which come from a
//! formula, features and objects are the same, under the tensor names of each library. (`detection_golden.py` wrote the
//! expected values.)

use crate::support::*;
use qdrop_core::graph::fold_batch_norm;
use qdrop_core::inference::Inference;
use qdrop_core::prelude::*;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const PADDED: [usize; 2] = [128, 192];
const SIZE: ImageSize = ImageSize { original: [240, 371], resized: [120, 185], tensor: PADDED };
/// Values of each level that are kept, spread over it.
const KEPT: usize = 60;

#[derive(Deserialize)]
struct Golden {
    name: String,
    architecture: String,
    variant: String,
    features: Vec<Level>,
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Vec<usize>,
}

#[derive(Deserialize)]
struct Level {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The values of a parameter, as `detection_golden.py` makes them; `name` is the other library's.
fn values(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let salt: f64 = name.bytes().map(f64::from).sum();
    let fan_in: usize = shape[1..].iter().product();
    let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let ends = |parts: &[&str]| parts.iter().any(|part| name.ends_with(part));
    let value = |i: usize| {
        let i = i as f64;
        let wave = (i * i * 0.001 + i * 1.7 + salt).sin();
        let mut v = match shape.len() {
            1 if ends(&["running_var", "weight"]) => 1.0 + 0.3 * wave,
            1 => 0.1 * wave,
            _ => wave * (2.0 / fan_in as f64).sqrt(),
        };
        if ends(&["bn3.weight"]) {
            v *= 0.2;
        }
        if is(&["cls_score", "fc_cls"]) {
            v *= 6.0;
        }
        if is(&["bbox_pred", "bbox_reg", "rpn_reg", "retina_reg", "fc_reg"]) {
            v *= 0.3;
        }
        if ends(&["cls_logits.weight", "retina_cls.weight"]) && shape[0] > 3 {
            v *= 2.0;
        }
        if ends(&["cls_logits.bias", "retina_cls.bias"]) && shape[0] > 3 {
            v -= 2.0;
        }
        v as f32
    };
    Tensor::from_vec((0..count).into_par_iter().map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

fn images() -> Tensor {
    let [height, width] = PADDED;
    let inside = |i: usize| i / width % height < SIZE.resized[0] && i % width < SIZE.resized[1];
    let wave = |i: usize| (i as f64 * 0.37 + (i * i) as f64 * 1e-5).sin() as f32;
    let pixels: Vec<f32> = (0..3 * height * width).map(|i| if inside(i) { wave(i) } else { 0.0 }).collect();
    Tensor::from_vec(pixels, (1, 3, height, width), &Device::Cpu).unwrap()
}

impl Golden {
    fn model(&self) -> QuantModel {
        let architecture = registries().architectures.get(&self.architecture, "test").unwrap().build().unwrap();
        // Built for another size than that of the images.
        let params = serde_yaml::from_str(&format!("{{variant: {}, image_size: [64, 96]}}", self.variant)).unwrap();
        let params = Params::new("test", params);
        let graph = architecture.graph(&params).unwrap();
        let head = architecture.head(&params).unwrap().unwrap();
        let maps = architecture.key_maps(&graph).unwrap();
        let map = &maps[usize::from(self.variant == "torchvision")];
        let shapes = graph.parameter_shapes().into_iter().chain(head.parameters());
        let value = |(own, shape): (String, Vec<usize>)| (own.clone(), values(&map.checkpoint_name(&own), &shape));
        let mut parameters: HashMap<String, Tensor> = shapes.map(value).collect();
        let graph = fold_batch_norm(graph, &mut parameters).unwrap();
        QuantModel::new(graph, parameters, Device::Cpu).with_head(Some(Arc::from(head)))
    }
}

#[test]
fn features_and_objects_are_those_of_torchvision_and_mmdetection() {
    let all: Vec<Golden> =
        serde_json::from_str(&std::fs::read_to_string(fixture("golden/detectors.json")).unwrap()).unwrap();
    assert_eq!(all.len(), 6);
    for golden in all {
        let what = &golden.name;
        let model = golden.model();
        let features = Inference::of_network(&model, Precision::Float).unwrap().forward(&images()).unwrap();
        assert_eq!(features.len(), golden.features.len(), "{what}");
        for (i, (level, want)) in features.iter().zip(&golden.features).enumerate() {
            assert_eq!(level.dims(), want.shape, "{what}, level {i}");
            let all = vec(level);
            let got: Vec<f32> = all.iter().copied().step_by((all.len() / KEPT).max(1)).collect();
            let largest = all.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let error = worst(&got, &want.values, largest);
            assert!(error < 1e-4, "{what}, level {i}: relative difference {error}");
        }
        let found = model.finish(features, &[SIZE]).unwrap();
        let rows: Vec<f32> = vec(&found[0]);
        let rows: Vec<&[f32]> = rows.chunks_exact(OBJECT_VALUES).filter(|row| row[5] >= 0.0).collect();
        assert_eq!(rows.len(), golden.boxes.len(), "{what}: number of objects");
        // As sets: nearly equal scores may swap.
        let mut free: Vec<usize> = (0..rows.len()).collect();
        for ((bbox, score), label) in golden.boxes.iter().zip(&golden.scores).zip(&golden.labels) {
            // Pixels, and scores in thousandths.
            let apart = |row: &[f32]| {
                let pixels = row.iter().zip(bbox).map(|(a, b)| (a - b).abs());
                pixels.fold(1e3 * (row[4] - score).abs(), f32::max)
            };
            let same = free.iter().enumerate().filter(|(_, i)| rows[**i][5] == *label as f32);
            let (distance, place) = same
                .map(|(place, i)| (apart(rows[*i]), place))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap_or_else(|| panic!("{what}: {bbox:?} {score} {label} was not found"));
            assert!(distance < 0.2, "{what}: {bbox:?} {score} {label} is {distance} pixels or thousandths away");
            free.swap_remove(place);
        }
    }
}
