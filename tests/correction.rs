//! Distribution correction, and the statistics of batch normalization that it reads.

use crate::fused::{divergence, model_with, samples, unit};
use crate::support::*;
use qdrop_core::engine::UnitSamples;
use qdrop_core::graph::fold_batch_norm;
use qdrop_core::model::{batch_norm_statistics, Precision, QuantModel};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::SeededRandom;
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::DistributionCorrection;
use std::collections::HashMap;
use std::sync::Arc;

const SMALL: &str = "{image_size: 32}";
const NETWORK: [&str; 2] = ["fixed", "lsq"];

#[test]
fn statistics_are_those_before_batch_normalization() {
    let architecture = registries().architectures.get("resnet18", "test").unwrap().build().unwrap();
    let graph = architecture.graph(&Params::new("test", serde_yaml::from_str(SMALL).unwrap())).unwrap();
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let x = noise(&shape, i as u32);
        // Factors of both signs.
        let x = if name.ends_with("running_var") { x.affine(0.3, 1.0) } else { x.affine(0.3, 0.0) };
        (name, x.unwrap())
    };
    let parameters: HashMap<String, Tensor> = graph.parameter_shapes().into_iter().enumerate().map(parameter).collect();
    let statistics = batch_norm_statistics(&graph, &parameters).unwrap();
    let mut all = parameters.clone();
    let folded = fold_batch_norm(graph.clone(), &mut all).unwrap();
    let original = QuantModel::new(graph, parameters, Device::Cpu);
    let mut model = QuantModel::new(folded, all, Device::Cpu);
    model.set_statistics(statistics).unwrap();
    let images = noise(&[2, 3, 32, 32], 77);
    // The values of a layer, channel by channel.
    let values = |model: &QuantModel, layer: &str| -> Vec<Vec<f32>> {
        let layer = model.graph().find(layer).unwrap();
        let nodes = model.graph().whole().nodes().to_vec();
        let part = model.graph().subgraph_with_outputs(nodes, vec![layer]);
        let x = model.run(&part, std::slice::from_ref(&images), Precision::Float).unwrap().remove(0);
        x.transpose(0, 1).unwrap().flatten_from(1).unwrap().to_vec2().unwrap()
    };
    let check = |model: &QuantModel| {
        for (layer, norm) in [("conv1", "bn1"), ("layer2.0.conv1", "layer2.0.bn1"), ("layer4.1.conv2", "layer4.1.bn2")]
        {
            let own = model.statistics(model.graph().find(layer).unwrap()).unwrap();
            let running = |name: &str| vec(original.parameter(&format!("{norm}.{name}")).unwrap());
            let (mean, variance) = (running("running_mean"), running("running_var"));
            for (c, (after, before)) in values(model, layer).iter().zip(values(&original, layer)).enumerate() {
                let [mean_now, deviation, factor] = [own.mean[c], own.deviation[c], own.before[c]].map(f64::from);
                assert!((deviation - f64::from(variance[c]).sqrt()).abs() < 1e-6, "{layer} {c}: {deviation}");
                for (after, before) in after.iter().zip(before) {
                    let got = (f64::from(*after) - mean_now).abs() * factor;
                    let want = f64::from(before - mean[c]).abs();
                    // Folding rounds weights and biases, and a small factor enlarges that.
                    let tolerance = 1e-5 * want.max(1.0) * factor.max(1.0);
                    assert!((got - want).abs() < tolerance, "{layer} {c}: {got} {want}");
                }
            }
        }
    };
    check(&model);
    let groups = channel_groups(model.graph());
    for (i, group) in groups.iter().enumerate() {
        let factors = vec(&noise(&[group.factors], i as u32)).iter().map(|f| (2.0 * f64::from(*f)).exp()).collect();
        let factors: Vec<f64> = factors;
        scale_channels(&mut model, group, &factors).unwrap();
    }
    check(&model);
}

/// The loss of the correction, by its definition.
fn loss(model: &QuantModel, task: &UnitTask<'_>, before: &UnitSamples, change: f64) -> f64 {
    let layers: Vec<NodeId> = task.nodes().iter().copied().filter(|id| model.statistics(*id).is_some()).collect();
    let part = model.graph().subgraph_with_outputs(task.nodes().iter().copied(), layers.clone());
    let all: Vec<usize> = (0..task.sample_count()).collect();
    let now = task.samples.float_inputs[0].gather(&all).unwrap();
    let mut loss = 0.0;
    for (layer, values) in layers.iter().zip(model.run(&part, std::slice::from_ref(&now), Precision::Float).unwrap()) {
        let own = model.statistics(*layer).unwrap();
        let values: Vec<Vec<Vec<f32>>> = values.flatten_from(2).unwrap().to_vec3().unwrap();
        for image in &values {
            for (c, values) in image.iter().enumerate() {
                let n = values.len() as f64;
                let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (n - 1.0);
                let [want, spread, factor] = [own.mean[c], own.deviation[c], own.before[c]].map(f64::from);
                let deviation = |variance: f64| (variance * factor * factor + 1e-6).sqrt();
                loss += ((mean - want) * factor).powi(2) / all.len() as f64;
                if values.len() > 1 {
                    loss += (deviation(variance) - (spread * spread + 1e-6).sqrt()).powi(2) / all.len() as f64;
                }
            }
        }
    }
    let old = before.float_inputs[0].gather(&all).unwrap();
    loss + f64::from(ops::reconstruction_loss(&now, &old).unwrap().to_scalar::<f32>().unwrap()) / change
}

/// Lets `look` see a unit's task after `act`, and its samples before. The network is random.
fn with_unit(
    name: &str,
    act: impl FnOnce(&mut UnitTask<'_>, &Context<'_>),
    look: impl FnOnce(&QuantModel, &UnitTask<'_>, &UnitSamples),
) {
    let float = model_with("resnet18", SMALL, NETWORK);
    let mut model = model_with("resnet18", SMALL, NETWORK);
    let unit = unit(&model, name);
    let before = samples(&model, &unit);
    let mut task = UnitTask::new(&mut model, &unit, 0, before.clone()).unwrap().of_float(&float);
    let random = SeededRandom { seed: 7 };
    act(&mut task, &Context { random: &random, progress: &Silent, interruption: &Forget, engine: Engine::Auto });
    look(&float, &task, &before);
}

/// Reconstructs a unit in one step, and gives its first loss.
fn first_loss(name: &str, params: &str) -> f64 {
    let params = format!("{{iters: 1, batch_size: 8, drop_prob: 1.0, batches: permutation{params}}}");
    let params = Params::new("reconstruction.params", serde_yaml::from_str(&params).unwrap());
    let reconstructor = registries().reconstructors.get("qdrop", "test").unwrap().build(&params).unwrap();
    let mut first = 0.0;
    let act = |task: &mut UnitTask<'_>, context: &Context<'_>| {
        first = reconstructor.reconstruct(task, context).unwrap().losses[0].reconstruction;
    };
    with_unit(name, act, |_, task, before| {
        // What is restored at the end of a unit has the statistics of the float network.
        assert!(Arc::ptr_eq(&task.samples.float_inputs[0], &before.float_inputs[0]));
        assert!(Arc::ptr_eq(&task.samples.float_outputs[0], &before.float_outputs[0]));
    });
    first
}

#[test]
fn inputs_move_towards_the_statistics_and_targets_follow() {
    for name in ["layer1.0", "layer2.0", "layer4.1"] {
        let moved = [0.2, 10.0].map(|change| {
            let mut losses = Vec::new();
            let mut moved = 0.0;
            for iters in [0, 1, 30] {
                let correction = DistributionCorrection { iters, lr: 0.02, change };
                with_unit(
                    name,
                    |task, context| correction.apply(task, context).unwrap(),
                    |float, task, before| {
                        losses.push(loss(float, task, before, change));
                        let all: Vec<usize> = (0..task.sample_count()).collect();
                        let inputs = [&task.samples, before].map(|s| s.float_inputs[0].gather(&all).unwrap());
                        moved = ops::reconstruction_loss(&inputs[0], &inputs[1]).unwrap().to_scalar::<f32>().unwrap();
                        // Adam's first step moves each value by the rate.
                        if iters == 1 {
                            let steps = vec(&(&inputs[0] - &inputs[1]).unwrap());
                            let full = steps.iter().filter(|d| (d.abs() - 0.02).abs() < 1e-4).count();
                            assert!(full * 10 > 9 * steps.len(), "{name}: {full} of {}", steps.len());
                        }
                        let want = float.run(task.part(), &inputs[..1], Precision::Float).unwrap().remove(0);
                        let got = task.targets(&all).unwrap().remove(0);
                        assert!(worst(&vec(&got), &vec(&want), 1.0) < 1e-5, "{name}");
                        assert!(Arc::ptr_eq(&task.samples.quantized_inputs[0], &before.quantized_inputs[0]));
                    },
                );
            }
            let small = if change > 1.0 { 0.7 } else { 1.0 };
            assert!(losses[1] < losses[0] && losses[2] < small * losses[1], "{name} {change}: {losses:?}");
            moved
        });
        assert!(moved[0] > 0.0 && moved[0] < 0.9 * moved[1], "{name}: {moved:?}");
    }
    // Without batch normalization there is nothing to correct.
    with_unit(
        "fc",
        |task, context| DistributionCorrection::default().apply(task, context).unwrap(),
        |_, task, before| {
            assert!(Arc::ptr_eq(&task.samples.float_inputs[0], &before.float_inputs[0]));
            assert!(Arc::ptr_eq(&task.samples.float_outputs[0], &before.float_outputs[0]));
        },
    );
}

#[test]
fn predictions_stay_those_of_the_float_network() {
    let with = |difference: &str| {
        first_loss("layer4.0", &format!(", distribution_correction: {{iters: 20, lr: 0.02}}{difference}"))
    };
    let got = (with(", prediction_difference: {weight: 1000, temperature: 2}") - with("")) / 1000.0;
    with_unit(
        "layer4.0",
        |_, _| (),
        |float, task, before| {
            let all: Vec<usize> = (0..before.count()).collect();
            let input = [before.quantized_inputs[0].gather(&all).unwrap()];
            let output = float.run(task.part(), &input, Precision::Quantized).unwrap();
            let want = divergence(float, task.part(), [before.targets(&all).unwrap(), output]);
            assert!(want > 1e-6 && (got - want).abs() < 2e-3 * want, "{got} {want}");
        },
    );
}

#[test]
fn channels_that_batch_normalization_hides_are_left_out() {
    let mut b = GraphBuilder::new([1, 4, 4]);
    let x = b.input();
    let x = b.unit("conv", |b| {
        let x = b.conv2d("conv", x, Conv2d::new(6, 1))?;
        b.batch_norm("norm", x, 1e-5)
    });
    let graph = b.finish(x.unwrap()).unwrap();
    let row = |values: [f32; 6]| Tensor::new(&values, &Device::Cpu).unwrap();
    // The last three are: as small as a mean's last digit, zero, and beyond what f32 can multiply.
    let (gamma, beta) = ([0.5, -2.0, 1e-9, 1e-9, 0.0, 1e-30], [0.1, 0.0, 0.0, -0.1, 0.3, 0.0]);
    let parameters = [
        ("norm.weight", row(gamma)),
        ("norm.bias", row(beta)),
        ("norm.running_mean", row([0.0; 6])),
        ("norm.running_var", row([0.25; 6])),
        ("conv.weight", Tensor::ones((6, 1, 1, 1), DType::F32, &Device::Cpu).unwrap()),
    ];
    let mut parameters: HashMap<String, Tensor> = parameters.map(|(name, x)| (name.into(), x)).into();
    let statistics = batch_norm_statistics(&graph, &parameters).unwrap();
    let own = &statistics["conv"];
    let known: Vec<bool> = own.before.iter().map(|before| *before > 0.0).collect();
    assert_eq!(known, [true, true, true, false, false, false]);
    assert_eq!(own.deviation, [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]);
    // Statistics of another shape or layer are refused.
    let folded = fold_batch_norm(graph, &mut parameters).unwrap();
    let mut model = QuantModel::new(folded, parameters, Device::Cpu);
    let mut short = own.clone();
    short.before.pop();
    let error = model.set_statistics([("conv".into(), short)]).unwrap_err().to_string();
    assert!(error.contains("'conv': has 6 channels, but statistics were given for [6, 5, 6]"), "{error}");
    let error = model.set_statistics([("cov".into(), own.clone())]).unwrap_err().to_string();
    assert!(error.contains("'cov': is not a layer of the network"), "{error}");
    assert!(!model.has_statistics());
}

#[test]
fn impossible_values_name_their_key() {
    for (params, message) in [
        ("{iters: 0}", "reconstruction.params.distribution_correction.iters: must be at least 1"),
        ("{lr: 0}", "reconstruction.params.distribution_correction.lr: must be positive"),
        ("{change: -1}", "reconstruction.params.distribution_correction.change: must be positive"),
    ] {
        let set = format!("reconstruction.params.distribution_correction={params}");
        let run = qdrop(&["check", "demo", "--set", &set]);
        assert!(run.error().contains(message), "{}", run.stderr);
    }
}
