//! Measurements of exported networks in onnxruntime: agreement with qdrop, speed on one thread, sizes of files.
//!
//! `cargo test --release -p qdrop --test integration -- --ignored --nocapture exported_networks_in_numbers` prints a table. PYTHON names a
//! Python with numpy, onnx and onnxruntime, QDROP_ARCHITECTURES the networks (all published ones without it), QDROP_IMAGES
//! the number of images.

use crate::onnx_case::*;
use crate::support::*;
use qdrop_core::model::QuantModel;
use qdrop_core::prelude::*;
use serde_json::{Map, Value};
use std::path::Path;

/// The architectures of published recipes, and one with squeeze and excitation.
const ARCHITECTURES: [(&str, &str); 8] = [
    ("resnet18", "{}"),
    ("resnet50", "{}"),
    ("resnext50_32x4d", "{}"),
    ("mobilenet_v2", "{}"),
    ("mnasnet", "{scale: 2.0}"),
    ("regnetx_600m", "{}"),
    ("regnetx_3200m", "{}"),
    ("regnety_400m", "{}"),
];
const BITS: [[u32; 2]; 4] = [[8, 8], [4, 4], [3, 3], [2, 4]];
/// Sides of the images over which outputs are compared, and of those for speed.
const SMALL: usize = 64;
const LARGE: usize = 224;
/// Images from which ranges are observed.
const OBSERVED: usize = 8;

/// Bytes that the numbers of a quantized network need: weights in their bits, and scales, zero points and biases.
fn theory(model: &QuantModel) -> usize {
    let of_layer = |(id, _): (NodeId, _)| {
        let weight = model.weight_codes(id).unwrap().unwrap();
        let bytes = (weight.codes.len() * weight.bits as usize).div_ceil(8);
        bytes + 4 * weight.scale.len() + weight.zero_point.len() + 4 * model.bias(id).map_or(0, Tensor::elem_count)
    };
    model.graph().nodes().filter(|(_, node)| node.op.has_weight()).map(of_layer).sum()
}

fn network(name: &str, params: &str, size: usize) -> QuantModel {
    let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
    let mut params: serde_yaml::Mapping = serde_yaml::from_str(params).unwrap();
    params.insert("image_size".into(), size.into());
    random(architecture.graph(&Params::new("test", params.into())).unwrap())
}

fn measured(name: &str, params: &str, images: usize) {
    let images = pictures([images, 3, SMALL, SMALL], 5);
    let large = pictures([16, 3, LARGE, LARGE], 5);
    let (float, large_float) = (network(name, params, SMALL), network(name, params, LARGE));
    for bits in BITS {
        let dir = tempfile::tempdir().unwrap();
        let quantized = |float: &QuantModel, images: &Tensor, scales| {
            quantized(float.float_copy(), bits, &images.narrow(0, 0, OBSERVED).unwrap(), scales)
        };
        let write = |case_name: &str, model: &QuantModel, images: &Tensor| {
            let dir = dir.path().join(case_name);
            case(&dir, model, images);
            dir
        };
        let any = quantized(&float, &images, Scales::Any);
        write("1 any scales", &any, &images);
        write("2 powers of two", &quantized(&float, &images, Scales::PowersOfTwo), &images);
        let model = quantized(&large_float, &large, Scales::Any);
        let large_case = write("3 large", &model, &large);
        float_case(&large_case, &large_float, &large);
        ask_for_speed(&large_case);
        let size = |file| std::fs::metadata(large_case.join(format!("{file}.onnx"))).unwrap().len();
        let sizes = ["integer", "exact", "float"].map(size);
        let results = onnxruntime(dir.path()).expect("onnxruntime");
        line(&format!("{name} w{}a{}", bits[0], bits[1]), &results, sizes, theory(&model));
    }
}

/// Asks `onnx_export.py` to measure times as well.
fn ask_for_speed(case: &Path) {
    let file = case.join("case.json");
    let mut value: Map<String, Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    value.insert("speed".into(), vec![1, 16].into());
    std::fs::write(file, serde_json::to_vec(&value).unwrap()).unwrap();
}

#[expect(clippy::print_stdout, reason = "a measurement is for who runs it")]
fn line(name: &str, results: &[Value], [integer, exact, float]: [u64; 3], theory: usize) {
    let [any, powers, large] = results else { panic!("{} results", results.len()) };
    let agreement = |result: &Value, file: &str| {
        let of = |level: &str| {
            let of = |key| number(&result["files"][file], &[level, key]);
            format!("{:.1} {:.2}", 100.0 * of("equal"), 100.0 * of("error"))
        };
        format!("{}, {}", of("off"), of("on"))
    };
    let convolutions = ["QLinearConv", "MatMulInteger", "FusedConv", "Conv"];
    let convolutions = convolutions.map(|operator| runs(large, "integer", operator).to_string());
    let speed = |batch: &str| {
        let of = |file| number(&large["speed"], &[batch, file]);
        format!("{:.0} {:.0} **{:.2}**", of("float"), of("integer"), of("ratio"))
    };
    let megabytes =
        [integer as usize, theory, exact as usize, float as usize].map(|b| format!("{:.2}", b as f64 / 1e6));
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
        agreement(powers, "exact"),
        agreement(powers, "integer"),
        agreement(any, "exact"),
        agreement(any, "integer"),
        convolutions.join(" "),
        speed("1"),
        speed("16"),
        megabytes.join(" ")
    );
}

#[test]
#[ignore = "takes an hour"]
fn exported_networks_in_numbers() {
    println!(
        "Of each format with optimizations off, and with all: % of predictions equal, mean difference in % of the logits' \
         deviation; first where sums are exact, then with any scales. Convolutions: \
         QLinearConv, MatMulInteger, FusedConv, Conv. Images/s: float, integer, ratio. MB: integer, theory, exact, float.\n\n\
         | network | exact | integer | exact, any scales | integer, any scales | convolutions | batch 1 | batch 16 | MB |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    let asked = std::env::var("QDROP_ARCHITECTURES").unwrap_or_default();
    let images: usize = std::env::var("QDROP_IMAGES").map_or(256, |images| images.parse().unwrap());
    for (name, params) in ARCHITECTURES {
        if !asked.is_empty() && !asked.split(',').any(|asked| asked == name) {
            continue;
        }
        measured(name, params, images);
    }
}
