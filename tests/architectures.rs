//! Every architecture against torchvision's: the same formula-made weights and images give the same
//! logits (`cross_check.py` wrote them).

use crate::support::*;
use qdrop_core::graph::fold_batch_norm;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::prelude::*;
use std::collections::HashMap;

const SIZE: usize = 64;
const CLASSES: usize = 10;

/// The values of a parameter, as `cross_check.py` makes them; `name` is torchvision's.
fn values(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let salt: f64 = name.bytes().map(f64::from).sum();
    let fan_in: usize = shape[1..].iter().product();
    let value = |i: usize| {
        let i = i as f64;
        let wave = (i * i * 0.001 + i * 1.7 + salt).sin();
        let v = match shape.len() {
            1 if name.ends_with("running_var") || name.ends_with("weight") => 1.0 + 0.3 * wave,
            1 => 0.1 * wave,
            _ => wave * (2.0 / fan_in as f64).sqrt(),
        };
        v as f32
    };
    Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

#[test]
fn logits_are_those_of_torchvision() {
    let golden: HashMap<String, Vec<Vec<f32>>> =
        serde_json::from_str(&std::fs::read_to_string(fixture("golden/logits.json")).unwrap()).unwrap();
    assert_eq!(golden.len(), 10);
    let pixels: Vec<f32> =
        (0..2 * 3 * SIZE * SIZE).map(|i| i as f64).map(|i| (i * 0.37 + i * i * 1e-5).sin() as f32).collect();
    let images = Tensor::from_vec(pixels, (2, 3, SIZE, SIZE), &Device::Cpu).unwrap();
    for (name, want) in golden {
        let architecture = (registries().architectures.get(&name, "test").unwrap().build.0)();
        let params = serde_yaml::from_str(&format!("{{classes: {CLASSES}, image_size: {SIZE}}}")).unwrap();
        let graph = architecture.graph(&Params::new("test", params)).unwrap();
        // RegNet's canonical names are not torchvision's; its first map leads there.
        let map = architecture.key_maps(&graph).into_iter().next().filter(|_| name.starts_with("regnet"));
        let map = map.unwrap_or_else(KeyMap::identity);
        let mut parameters: HashMap<String, Tensor> = graph
            .parameter_shapes()
            .into_iter()
            .map(|(own, shape)| (own.clone(), values(&map.checkpoint_name(&own), &shape)))
            .collect();
        let graph = fold_batch_norm(graph, &mut parameters).unwrap();
        let model = QuantModel::new(graph, parameters, Device::Cpu);
        let logits = vec(&model.forward(&images, Precision::Float).unwrap());
        let want = want.concat();
        let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let error = worst(&logits, &want, largest);
        assert!(error < 1e-4, "{name}: relative difference {error}: {logits:?}, want {want:?}");
    }
}
