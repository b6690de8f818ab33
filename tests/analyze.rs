//! What layers and units alone lose at few bits.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::Run as QdropRun;
use qdrop_core::graph::SiteKind;
use qdrop_core::model::QuantSite;
use qdrop_core::pipeline::Session;
use qdrop_core::prelude::*;
use serde_json::Value;

const IMAGES: usize = 32;

/// KL(float || quantized) of the softmax of logits, summed in double precision.
fn divergence(float: &[f32], own: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| -> Vec<f64> {
        let largest = x.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = x.iter().map(|v| f64::from(v - largest).exp()).sum();
        x.iter().map(|v| f64::from(v - largest) - sum.ln()).collect()
    };
    let (p, q) = (log_softmax(float), log_softmax(own));
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The means of the channels of (N, C, ...).
fn means(x: &Tensor) -> Vec<f64> {
    let x = x.transpose(0, 1).unwrap().flatten_from(1).unwrap().to_dtype(DType::F64).unwrap();
    x.mean(1).unwrap().to_vec1().unwrap()
}

/// Every value equals that of a network in which only this layer, or only this unit, is quantized, computed from the images on; biases
/// give the layers' outputs their means back.
#[test]
fn layers_are_measured_alone() {
    let run = QdropRun::new(Loader::new("demo").load().unwrap()).unwrap();
    let analysis = run.analyze(IMAGES).unwrap();
    assert_eq!((analysis.images, analysis.metrics[0].key.as_str()), (IMAGES, "kl"));
    let recipe = Loader::new("demo")
        .set(format!("calibration={{images: {IMAGES}, observe: {IMAGES}}}"))
        .set("calibration.inputs=float")
        .load()
        .unwrap();
    let session = Session::new(recipe, registries(), Device::Cpu).unwrap();
    let model = session.float_model().unwrap();
    let cache = qdrop_core::cache::CacheBudget::unlimited();
    let images = session.calibration_images(&cache, &qdrop_core::progress::Silent).unwrap().images;
    let images = images.range(0, IMAGES).unwrap();
    let logits =
        |model: &QuantModel, precision| model.forward(&images, precision).unwrap()[0].to_vec2::<f32>().unwrap();
    let float = logits(&model, Precision::Float);
    let plans = session.plans().unwrap();
    let graph = model.graph();
    for (name, kind, is_unit, bits) in [
        ("conv1", SiteKind::Weight, false, 2),
        ("layer3.0.conv2", SiteKind::Weight, false, 3),
        ("fc", SiteKind::Weight, false, 2),
        ("layer2.1", SiteKind::Weight, true, 2),
        ("layer4.0", SiteKind::Weight, true, 4),
    ] {
        let unit = graph.units().iter().find(|unit| is_unit && unit.name == name);
        let mut variant = model.float_copy();
        let mut elements = 0;
        for plan in plans.iter().filter(|plan| plan.site.kind == kind) {
            let node = graph.find(&plan.site.name).unwrap();
            let is_own = unit.map_or(plan.site.name == name, |unit| unit.subgraph.contains(node));
            if !is_own {
                continue;
            }
            let spec = QuantSpec { bits, ..plan.spec };
            let (observer, quantizer) = (&plan.observer.0, &plan.quantizer.0);
            let params = Params::none("test");
            let mut seen = registries().observers.get(&observer.name, "test").unwrap().build(&spec, &params).unwrap();
            seen.observe(model.weight(node).unwrap()).unwrap();
            let mut quantizer =
                registries().quantizers.get(&quantizer.name, "test").unwrap().build(&spec, &params).unwrap();
            quantizer.set_range(&seen.range().unwrap(), &Device::Cpu).unwrap();
            variant.set_weight_quantizer(node, QuantSite { name: plan.site.name.clone(), quantizer });
            elements += model.weight(node).unwrap().elem_count();
        }
        let layers: Vec<NodeId> = variant.weight_sites().map(|(id, _)| id).collect();
        for layer in layers {
            let up_to = graph.nodes().map(|(id, _)| id).filter(|id| *id > graph.input() && *id <= layer);
            let up_to = graph.subgraph_with_outputs(up_to, vec![layer]);
            let of = |model: &QuantModel, precision| {
                means(&model.run(&up_to, std::slice::from_ref(&images), precision).unwrap()[0])
            };
            let (full, own) = (of(&model, Precision::Float), of(&variant, Precision::Quantized));
            let shift: Vec<f32> = full.iter().zip(own).map(|(full, own)| (full - own) as f32).collect();
            let bias = model.bias(layer).unwrap();
            let shift = Tensor::from_vec(shift, bias.shape(), &Device::Cpu).unwrap();
            variant.correct_bias(layer, (bias + shift).unwrap()).unwrap();
        }
        let own = logits(&variant, Precision::Quantized);
        let want = float.iter().zip(&own).map(|(f, o)| divergence(f, o)).sum::<f64>() / IMAGES as f64;
        let found = analysis.sensitivities.iter().find(|one| {
            let subject = &one.subject;
            (subject.name.as_str(), subject.kind, subject.is_unit, one.bits) == (name, kind, is_unit, bits)
        });
        let found = found.unwrap_or_else(|| panic!("{name} at {bits} bits"));
        let got = found.measured.value(&analysis.metrics[0]).unwrap();
        // The same kernels; sums of few logits.
        assert!((got - want).abs() <= 1e-6 * (1.0 + want), "{name} at {bits} bits: {got}, {want}");
        assert!(want > 1e-9 && found.weights == elements, "{name}: {want}, {}", found.weights);
    }
}

#[test]
fn layers_and_units_are_ranked() {
    let run = qdrop(&["analyze", "demo", "--images", "16"]);
    assert!(run.ok, "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], "layers and values, each quantized alone: KL (nats) of 16 images");
    let units = lines.iter().position(|line| line.starts_with("units, each")).unwrap();
    let value = |line: &str| line.split_whitespace().nth(4).unwrap().parse::<f64>().unwrap();
    for part in [&lines[2..units], &lines[units + 2..]] {
        assert!(part.len() > 5 && part.iter().map(|line| value(line)).is_sorted_by(|a, b| a >= b), "{part:?}");
    }
    let all = qdrop(&["analyze", "demo", "--images", "16", "--json"]).json();
    let all = all["sensitivities"].as_array().unwrap();
    // 21 weights, and 10 units with weights; 4 bit widths each.
    let count =
        |is_unit: bool, kind: &str| all.iter().filter(|one| one["is_unit"] == is_unit && one["kind"] == kind).count();
    assert_eq!([count(false, "weight"), count(true, "weight")], [21 * 4, 10 * 4]);
    let kl = |one: &Value| one["measured"]["kl"].as_f64().unwrap();
    // At 8 bits hardly anything is lost, at 2 bits most.
    for four in all.chunks_exact(4) {
        assert_eq!([&four[0]["bits"], &four[3]["bits"]], [&Value::from(2), &Value::from(8)]);
        assert!(kl(&four[3]) <= kl(&four[0]) + 1e-6 && kl(&four[3]) < 0.05, "{four:?}");
    }
}

/// A detector's deviation is what both networks do not find alike.
#[test]
fn detectors_are_analyzed() {
    let all = qdrop(&["analyze", "demo/detection", "--images", "4", "--json"]).json();
    let images = all["images"].as_u64().unwrap();
    assert!((4..8).contains(&images), "{images}");
    let all = all["sensitivities"].as_array().unwrap();
    // At 8 bits no layer loses much, wherever in the pyramid it is.
    for one in all.iter().filter(|one| one["bits"] == 8) {
        assert!(one["measured"]["disagreement"].as_f64().unwrap() < 0.2, "{one}");
    }
    assert!(all.iter().all(|one| (0.0..=1.0).contains(&one["measured"]["disagreement"].as_f64().unwrap())));
    assert!(all.iter().any(|one| one["bits"] == 2 && one["measured"]["disagreement"].as_f64().unwrap() > 0.0));
}
