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

/// The float network of a session with random weights.
fn even(session: &Session<'_>) -> QuantModel {
    let mut model = session.zero_model().unwrap();
    for (i, (name, shape)) in model.graph().parameter_shapes().into_iter().enumerate() {
        let fan_in: usize = shape[1..].iter().product();
        // Keeps the size of values from layer to layer; biases are small.
        let size = if shape.len() == 1 { 0.1 } else { (6.0 / fan_in as f64).sqrt() };
        if !name.ends_with(".bound") {
            model.set_parameter(&name, noise(&shape, i as u32).affine(size, 0.0).unwrap()).unwrap();
        }
    }
    model
}

/// The same, with channels that differ by factors of up to 30.
fn uneven(session: &Session<'_>) -> QuantModel {
    let mut model = even(session);
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

/// The error of the quantized network's outputs, relative to their size. The float network must have stayed the same.
fn error(session: &Session<'_>) -> f64 {
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
    let mut prepared = uneven(session);
    session.prepare(&mut prepared, &resources.images, &Silent).unwrap();
    let after = vec(&prepared.forward(&images, Precision::Float).unwrap()[0]);
    let size = float.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!(worst(&after, &float, size) < 1e-4);
    let result = session.quantize(model, &resources).unwrap();
    let quantized = vec(&result.model.forward(&images, Precision::Quantized).unwrap()[0]);
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
    square(&mut quantized.iter().zip(&float).map(|(q, f)| q - f)) / square(&mut float.iter().copied())
}

const ARCHITECTURES: [&str; 9] = [
    "{name: resnet18, params: {image_size: 48, classes: 10, width: 16}}",
    "{name: resnet50, params: {image_size: 48, classes: 10, width: 16}}",
    "{name: mobilenet_v2, params: {image_size: 48, classes: 10, width: 0.5}}",
    "{name: mnasnet, params: {image_size: 48, classes: 10, scale: 0.5}}",
    "{name: resnext50_32x4d, params: {image_size: 32, classes: 10, width: 16}}",
    "{name: wide_resnet50_2, params: {image_size: 32, classes: 10, width: 16}}",
    "{name: regnetx_600m, params: {image_size: 48, classes: 10}}",
    "{name: regnety_400m, params: {image_size: 32, classes: 10}}",
    "{name: regnetx_3200m, params: {image_size: 32, classes: 10}}",
];
/// Rewrites operations, but scales nothing.
const NOTHING: &str = "[{name: equalize, params: {limit: 1}}]";

#[test]
fn every_architecture_loses_less_when_its_channels_are_equalized() {
    // The graph of a plugin, with concatenated channels.
    for architecture in ARCHITECTURES.into_iter().chain(["squeezed"]) {
        let before = error(&session(architecture, NOTHING));
        let exponents: &[&str] = match architecture {
            large if large.contains("3200m") => &["0.5"],
            both if both.contains("mobilenet") => &["auto", "0.5"],
            _ => &["auto"],
        };
        for exponent in exponents {
            let prepare = format!("[{{name: equalize, params: {{exponent: {exponent}}}}}]");
            let after = error(&session(architecture, &prepare));
            assert!(after <= 0.5 * before, "{architecture}, {exponent}: the error falls from {before} to {after} only");
        }
    }
}

#[test]
fn how_the_channels_were_scaled_before_does_not_matter() {
    for exponent in [0.0, 0.3, 1.0] {
        let session =
            session("squeezed", &format!("[{{name: equalize, params: {{exponent: {exponent}, limit: 1.0e+6}}}}]"));
        let images = CachedValues::in_memory(&images(&session)).unwrap();
        let [even, uneven] = [even(&session), uneven(&session)].map(|mut model| {
            session.prepare(&mut model, &images, &Silent).unwrap();
            model
        });
        // The largest factor of a group is 1, so each weight is the same but for one factor.
        for (name, _) in even.graph().parameter_shapes().into_iter().filter(|(name, _)| name.ends_with(".weight")) {
            let [a, b] = [&even, &uneven].map(|model| {
                let weight = vec(model.parameter(&name).unwrap());
                let size = weight.iter().map(|w| w * w).sum::<f32>().sqrt();
                weight.into_iter().map(|w| w / size).collect::<Vec<_>>()
            });
            let largest = a.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
            assert!(worst(&a, &b, largest) < 1e-5, "{exponent}: {name}");
        }
    }
}

/// Squeezed channels that a depthwise convolution reads, and two others after it, whose values are concatenated.
struct Squeezed;

impl Architecture for Squeezed {
    fn graph(&self, params: &Params) -> Result<Graph> {
        params.expect_none()?;
        let mut b = GraphBuilder::new([3, 32, 32]);
        let mut x = b.input();
        for (i, squeezed) in [8, 12].into_iter().enumerate() {
            x = b.unit(&format!("fire{i}"), |b| {
                // No channel is zero for all images: what a ReLU reads has both signs.
                let linear = |b: &mut GraphBuilder, name: &str, x, conv: Conv2d| {
                    b.conv2d(&format!("fire{i}.{name}"), x, conv.bias())
                };
                let x = linear(b, "squeeze", x, Conv2d::new(squeezed, 1))?;
                let x = linear(b, "depthwise", x, Conv2d::new(squeezed, 3).padding(1).groups(squeezed))?;
                let x = b.relu(&format!("fire{i}.relu"), x)?;
                let small = linear(b, "expand1x1", x, Conv2d::new(2 * squeezed, 1))?;
                let large = linear(b, "expand3x3", x, Conv2d::new(2 * squeezed, 3).padding(1))?;
                b.concat(&format!("fire{i}.concat"), &[small, large])
            })?;
            x = b.max_pool(&format!("pool{i}"), x, Pool2d::new(2))?;
        }
        let x = b.unit("last", |b| b.conv2d("last", x, Conv2d::new(10, 1).bias()))?;
        let x = b.global_average_pool("mean", x)?;
        let logits = b.flatten("logits", x)?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "squeezed", aliases: [], summary: "concatenated channels", build: || Box::new(Squeezed)
}

#[test]
fn channels_that_will_be_lost_are_a_warning_until_they_are_equalized() {
    let architecture = ARCHITECTURES[2];
    let warning = |prepare: &str, of_recipe: &str| {
        let session = session(architecture, prepare);
        let (mut model, images) = (uneven(&session), CachedValues::in_memory(&images(&session)).unwrap());
        session.prepare(&mut model, &images, &Silent).unwrap();
        self::session(architecture, of_recipe).uneven_channels(&model, &images).unwrap()
    };
    let text = warning(NOTHING, "[]").unwrap();
    assert!(text.contains("quantized values, channels smaller than 2 steps"), "{text}");
    assert!(text.contains("`--set 'prepare=[equalize]'` scales the channels"), "{text}");
    assert_eq!(warning("[equalize]", "[equalize]"), None);
    // Nobody is told to do what the recipe does.
    let text = warning(NOTHING, NOTHING).unwrap();
    assert!(text.contains("more bits for such values resolve more (`quant.overrides`)"), "{text}");
    assert!(!text.contains("--set"), "{text}");
}

#[test]
fn the_demo_shows_what_is_equalized() {
    let described = qdrop(&["describe", "demo", "--set", "prepare=[equalize]", "--json"]).json();
    let parts = described["prepared"][0][1].as_array().unwrap();
    assert_eq!(described["prepared"][0][0], "equalize");
    assert!(parts.iter().any(|change| change["part"].as_str().unwrap().starts_with("layer1.0")), "{parts:?}");
    // Without weights, what will be measured.
    let described = qdrop(&["describe", "imagenet/mobilenet_v2_w4a4", "--set", "prepare=[equalize]", "--json"]).json();
    let lines = described["prepare"][0]["parts"].as_array().unwrap();
    // 17 pairs around depthwise convolutions, of which one has no expansion before it, 7 streams, and the last layer.
    assert_eq!(lines.len(), 17 + 17 + 7 + 1, "{lines:?}");
    assert!(lines.iter().any(|line| line == "features.0.0: 32 channels, exponent 1"), "{lines:?}");
    for (params, message) in [
        ("{exponent: 1.5}", "prepare[0].params.exponent: is `auto` or lies between 0 and 1"),
        ("{percentile: 0}", "prepare[0].params.percentile: is a percentage above 0"),
        ("{images: 0}", "prepare[0].params.images: must be at least 1"),
    ] {
        let prepare = format!("prepare=[{{name: equalize, params: {params}}}]");
        let run = qdrop(&["check", "demo", "--set", &prepare]);
        assert!(run.error().contains(message), "{}", run.stderr);
    }
    let run = qdrop(&["check", "demo", "--set", "prepare=[equalise]"]);
    assert!(run.error().contains("unknown preparation 'equalise', did you mean 'equalize'?"), "{}", run.stderr);
}
