//! Every architecture against torchvision and timm. With the same weights and images, which come from a formula, the
//! logits are the same, under the tensor names of each library. Parameters and operations are the published ones.
//! (`cross_check.py` wrote the expected values.)

use crate::support::*;
use qdrop_core::graph::fold_batch_norm;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::prelude::*;
use std::collections::HashMap;

const SIZE: usize = 64;
const CLASSES: usize = 10;

/// The facts about a network in another library.
#[derive(Deserialize)]
struct Golden {
    library: String,
    name: String,
    architecture: String,
    params: serde_yaml::Mapping,
    parameters: usize,
    gmacs: Option<f64>,
    /// Checksum of the library's tensor names.
    names: u32,
    logits: Vec<Vec<f32>>,
}

fn golden_networks() -> Vec<Golden> {
    serde_json::from_str(&std::fs::read_to_string(fixture("golden/logits.json")).unwrap()).unwrap()
}

impl Golden {
    fn graph(&self, more: &str) -> (Box<dyn Architecture>, Graph) {
        let architecture = registries().architectures.get(&self.architecture, "test").unwrap().build().unwrap();
        let mut params = self.params.clone();
        params.extend(serde_yaml::from_str::<serde_yaml::Mapping>(more).unwrap());
        let graph = architecture.graph(&Params::new("test", params.into())).unwrap();
        (architecture, graph)
    }
}

/// The values of a parameter, as `cross_check.py` makes them; `name` is the other library's.
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

/// CRC-32 of the sorted names, one on each line.
fn checksum(names: impl Iterator<Item = String>) -> u32 {
    let mut names: Vec<String> = names.collect();
    names.sort();
    let mut crc = flate2::Crc::new();
    crc.update(names.join("\n").as_bytes());
    crc.sum()
}

#[test]
fn logits_are_those_of_torchvision_and_timm() {
    let networks = golden_networks();
    assert_eq!(networks.len(), 39);
    let pixels: Vec<f32> =
        (0..2 * 3 * SIZE * SIZE).map(|i| i as f64).map(|i| (i * 0.37 + i * i * 1e-5).sin() as f32).collect();
    let images = Tensor::from_vec(pixels, (2, 3, SIZE, SIZE), &Device::Cpu).unwrap();
    for network in networks {
        let what = format!("{} {}", network.library, network.name);
        let (architecture, graph) = network.graph(&format!("{{classes: {CLASSES}, image_size: {SIZE}}}"));
        let shapes = graph.parameter_shapes();
        let mut maps = std::iter::once(KeyMap::identity()).chain(architecture.key_maps(&graph).unwrap());
        let leads_there =
            |map: &KeyMap| checksum(shapes.iter().map(|(own, _)| map.checkpoint_name(own))) == network.names;
        let map = maps.find(leads_there).unwrap_or_else(|| panic!("{what}: no map leads to its names"));
        let value = |(own, shape): (String, Vec<usize>)| (own.clone(), values(&map.checkpoint_name(&own), &shape));
        let mut parameters: HashMap<String, Tensor> = shapes.iter().cloned().map(value).collect();
        let graph = fold_batch_norm(graph, &mut parameters).unwrap();
        let model = QuantModel::new(graph, parameters, Device::Cpu);
        let logits = vec(&model.forward(&images, Precision::Float).unwrap()[0]);
        let want = network.logits.concat();
        let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let error = worst(&logits, &want, largest);
        assert!(error < 1e-4, "{what}: relative difference {error}: {logits:?}, want {want:?}");
    }
}

#[test]
fn parameters_and_operations_are_the_published_ones() {
    for network in golden_networks() {
        let graph = network.graph("{}").1;
        assert_eq!(graph.parameter_count(), network.parameters, "{} {}", network.library, network.name);
        if let Some(gmacs) = network.gmacs {
            let macs: u64 = graph.nodes().map(|(id, _)| graph.macs(id)).sum();
            assert!((macs as f64 / 1e9 - gmacs).abs() <= 0.0011, "{}: {macs}, published {gmacs} G", network.name);
        }
    }
}
