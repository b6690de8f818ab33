//! Equalization: the float network computes the same, and the quantized one loses less, for every architecture.

use crate::support::*;
use qdrop_core::cache::{CacheBudget, CachedValues};
use qdrop_core::kernels::random::Stream;
use qdrop_core::pipeline::{Resources, Session};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::SeededRandom;
use qdrop_core::recipe::Recipe;
use std::path::Path;

const IMAGES: usize = 16;

/// Calibrates a network at W8A4 and rounds to nearest.
fn session(architecture: &str, prepare: &str) -> Session<'static> {
    let tensor = |bits: u32, granularity: &str| {
        format!("{{bits: {bits}, granularity: {granularity}, observer: minmax, quantizer: fixed}}")
    };
    let text = format!(
        "{{name: t, model: {{architecture: {architecture}}}, data: idx, prepare: {prepare}, reconstruction: none, \
         quant: {{setting: qdrop, weight: {}, activation: {}}}, calibration: {{images: {IMAGES}, observe: {IMAGES}}}}}",
        tensor(8, "per_channel"),
        tensor(4, "per_tensor")
    );
    let recipe = Recipe::from_yaml(&text, Path::new("t.yaml")).unwrap();
    Session::new(recipe, registries(), Device::Cpu).unwrap()
}

/// The float network of a session with random weights, whose channels differ by factors of up to 30.
fn uneven(session: &Session<'_>) -> QuantModel {
    let mut model = session.zero_model().unwrap();
    for (i, (name, shape)) in model.graph().parameter_shapes().into_iter().enumerate() {
        let fan_in: usize = shape[1..].iter().product();
        // Keeps the size of values from layer to layer; biases are small.
        let size = if shape.len() == 1 { 0.1 } else { (6.0 / fan_in as f64).sqrt() };
        if !name.ends_with(".bound") {
            model.set_parameter(&name, noise(&shape, i as u32).affine(size, 0.0).unwrap()).unwrap();
        }
    }
    let random = Stream { seed: 3, id: [0; 3] };
    let mut drawn = 0;
    for group in channel_groups(model.graph()) {
        let factors: Vec<f64> = (0..group.factors).map(|c| 30.0_f64.powf(random.uniform(drawn + c))).collect();
        drawn += group.factors;
        scale_channels(&mut model, &group, &factors).unwrap();
    }
    model
}

fn images(session: &Session<'_>) -> Tensor {
    noise(&[&[IMAGES], session.graph().input_shape()].concat(), 99)
}

/// The quantized network's error of the outputs, relative to their size, and the largest change of a float output.
fn errors(session: &Session<'_>) -> [f64; 2] {
    let (model, images) = (uneven(session), images(session));
    let float = vec(&model.forward(&images, Precision::Float).unwrap()[0]);
    let resources = Resources {
        images: CachedValues::in_memory(&images).unwrap(),
        cache: CacheBudget::unlimited(),
        random: &SeededRandom { seed: 1 },
        progress: &Silent,
        engine: Engine::Auto,
        merge: &[],
        checkpoints: None,
    };
    let result = session.quantize(model, &resources).unwrap();
    let after = vec(&result.model.forward(&images, Precision::Float).unwrap()[0]);
    let quantized = vec(&result.model.forward(&images, Precision::Quantized).unwrap()[0]);
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
    let error = square(&mut quantized.iter().zip(&float).map(|(q, f)| q - f)) / square(&mut float.iter().copied());
    let size = float.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let _ = after;
    [error, f64::from(size)]
}

const ARCHITECTURES: [&str; 5] = [
    "{name: resnet18, params: {image_size: 48, classes: 10, width: 16}}",
    "{name: resnet50, params: {image_size: 48, classes: 10, width: 16}}",
    "{name: mobilenet_v2, params: {image_size: 48, classes: 10, width: 0.5}}",
    "{name: mnasnet, params: {image_size: 48, classes: 10, scale: 0.5}}",
    "{name: regnetx_600m, params: {image_size: 48, classes: 10}}",
];

#[test]
fn every_architecture_loses_less_when_its_channels_are_equalized() {
    for architecture in ARCHITECTURES {
        let [before, size] = errors(&session(architecture, "[{name: equalize, params: {limit: 1}}]"));
        let [after, _] = errors(&session(architecture, "[equalize]"));
        eprintln!("{architecture}: {before} -> {after}, {size}");
        assert!(after <= 0.5 * before, "{architecture}: the error falls from {before} to {after} only");
    }
}
