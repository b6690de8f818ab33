//! The fused engine computes what the generic engine computes, for every unit of the published networks.

use crate::fused_graphs::kind;
use crate::support::*;
use qdrop_core::engine::UnitSamples;
use qdrop_core::graph::{fold_batch_norm, merge_units, quantization_sites, Graph, SiteKind, Subgraph, Unit};
use qdrop_core::model::{batch_norm_statistics, Precision, QuantModel, QuantSite};
use qdrop_core::prelude::*;
use qdrop_core::progress::{Event, Progress, Silent};
use qdrop_core::random::SeededRandom;
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::collections::HashMap;

const SAMPLES: usize = 8;

/// The networks of the ImageNet recipes, on small images.
pub const NETWORKS: [(&str, &str); 6] = [
    ("resnet18", "{image_size: 32}"),
    ("resnet50", "{image_size: 32}"),
    ("mobilenet_v2", "{image_size: 32}"),
    ("regnetx_600m", "{image_size: 32}"),
    ("regnetx_3200m", "{image_size: 32}"),
    ("mnasnet", "{image_size: 32}"),
];

/// A network with random weights, AdaRound for weights and a quantizer for activations.
pub fn model(name: &str, params: &str, activation: &str) -> QuantModel {
    model_with(name, params, ["adaround", activation])
}

/// A network with random weights and quantizers for weights and activations.
pub fn model_with(name: &str, params: &str, [weight, activation]: [&str; 2]) -> QuantModel {
    let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
    let graph = architecture.graph(&Params::new("test", serde_yaml::from_str(params).unwrap())).unwrap();
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let fan_in: usize = shape[1..].iter().product();
        let x = noise(&shape, i as u32);
        let x = match shape.len() {
            1 if name.ends_with("bound") => x.affine(1.0, 1.5),
            1 if name.ends_with("weight") || name.ends_with("running_var") => x.affine(0.3, 1.0),
            1 => x.affine(0.1, 0.0),
            _ => x.affine((4.0 / fan_in as f64).sqrt(), 0.0),
        };
        (name, x.unwrap())
    };
    let mut parameters: HashMap<String, Tensor> =
        graph.parameter_shapes().into_iter().enumerate().map(parameter).collect();
    let statistics = batch_norm_statistics(&graph, &parameters).unwrap();
    let graph = fold_batch_norm(graph, &mut parameters).unwrap();
    let mut model = QuantModel::new(graph.clone(), parameters, Device::Cpu);
    model.set_statistics(statistics).unwrap();
    for site in quantization_sites(&graph) {
        let name = site.name.clone();
        if site.kind == SiteKind::Weight {
            let mut quantizer = quantizer(weight, &spec(2, false, Granularity::PerAxis(0)));
            let rows = model.weight(site.node).unwrap().flatten_from(1).unwrap();
            let bound = |x: Tensor| x.affine(0.7, 0.0).unwrap().to_vec1().unwrap();
            let range = Range { min: bound(rows.min(1).unwrap()), max: bound(rows.max(1).unwrap()) };
            quantizer.set_range(&range, &Device::Cpu).unwrap();
            model.set_weight_quantizer(site.node, QuantSite { name, quantizer });
        } else {
            let mut quantizer = quantizer(activation, &spec(4, false, Granularity::PerTensor));
            quantizer.set_range(&Range { min: vec![-0.5], max: vec![2.5] }, &Device::Cpu).unwrap();
            model.set_activation_quantizer(site.node, QuantSite { name, quantizer });
        }
    }
    model
}

/// Cached values of a unit: random inputs, and the outputs of the full-precision unit.
pub fn samples(model: &QuantModel, unit: &Unit) -> UnitSamples {
    let input = model.graph().node(unit.subgraph.inputs()[0]);
    let float_input = noise(&[&[SAMPLES], input.shape.as_slice()].concat(), 500).affine(1.0, 0.3).unwrap();
    let float_outputs = model.run(&unit.subgraph, std::slice::from_ref(&float_input), Precision::Float).unwrap();
    let quantized_input = ((&float_input * 8.0).unwrap().round().unwrap() / 8.0).unwrap();
    let data = UnitData { quantized_inputs: vec![quantized_input], float_inputs: vec![float_input], float_outputs };
    UnitSamples::in_memory(&data).unwrap()
}

/// Losses of each step, and all learned values.
pub type Learned = (Vec<LossPoint>, Vec<(String, Vec<f32>)>);

/// Runs a reconstructor's optimization on an engine.
pub fn run_with(
    model: &mut QuantModel,
    unit: &Unit,
    engine: Runs,
    groups: &[&str],
    optimize: impl FnOnce(&UnitTask<'_>, &Context<'_>) -> Result<Vec<LossPoint>>,
) -> Learned {
    let samples = samples(model, unit);
    let mut task = engine.place(UnitTask::new(model, unit, 3, samples).unwrap());
    task.begin(groups).unwrap();
    let random = SeededRandom { seed: 7 };
    let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
    let losses = optimize(&task, &context).unwrap();
    let learned = task.parameters().unwrap().into_iter().map(|(name, p)| (name, vec(p.var.as_tensor()))).collect();
    (losses, learned)
}

pub fn run(model: &mut QuantModel, unit: &Unit, params: &QdropParams, engine: Runs) -> Learned {
    run_with(model, unit, engine, &params.groups(), |task, context| {
        optimize(task, params, context).map(|report| report.losses)
    })
}

/// The unit of this name.
pub fn unit(model: &QuantModel, name: &str) -> Unit {
    model.graph().units().iter().find(|u| u.name == name).unwrap_or_else(|| panic!("{name}")).clone()
}

/// KL(float || quantized) of what the float rest of the network predicts from outputs of a part of it, at the temperature 2, averaged
/// over samples.
pub fn divergence(model: &QuantModel, part: &Subgraph, [float, quantized]: [Vec<Tensor>; 2]) -> f64 {
    let rest = model.graph().after(part);
    let logits = |x: Vec<Tensor>| {
        let logits = model.run(&rest, &x, Precision::Float).unwrap().remove(0);
        logits.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap()
    };
    let softmax = |x: &[f64]| -> Vec<f64> {
        let e: Vec<f64> = x.iter().map(|v| (v / 2.0).exp()).collect();
        e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
    };
    let of = |(f, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
        softmax(f).iter().zip(softmax(q)).map(|(p, q)| p * (p / q).ln()).sum()
    };
    let (float, quantized) = (logits(float), logits(quantized));
    float.iter().zip(&quantized).map(of).sum::<f64>() / float.len() as f64
}

/// Checks that both engines learned the same values.
pub fn agree(what: &str, generic: &Learned, fused: &Learned) {
    agree_but_for(what, generic, fused, 1e-3);
}

/// The same, but for a share of the elements of each variable.
fn agree_but_for(what: &str, generic: &Learned, fused: &Learned, share: f64) {
    assert_eq!(generic.0.len(), fused.0.len());
    for (step, (g, f)) in generic.0.iter().zip(&fused.0).enumerate() {
        let pair = |p: &LossPoint| [p.reconstruction as f32, p.rounding as f32, p.b as f32];
        assert!(worst(&pair(f), &pair(g), 1e-6) < 1e-3, "{what} step {step}: {f:?}, generic {g:?}");
    }
    for ((key, g), (other, f)) in generic.1.iter().zip(&fused.1) {
        assert_eq!(key, other);
        // A gradient may be 0 in one order of summation and tiny in another; then Adam moves alpha by the full rate.
        let apart = g.iter().zip(f).filter(|(g, f)| (*g - *f).abs() > 1e-3 * g.abs().max(0.1)).count();
        assert!(apart as f64 <= share * g.len() as f64, "{what} {key}: {apart} of {} differ", g.len());
    }
}

fn compare(name: &str, params: &str, unit_name: &str, activation: &str, settings: &QdropParams) {
    let [generic, fused] = [Runs::GENERIC, Runs::FUSED].map(|engine| {
        let mut model = model(name, params, activation);
        let unit = unit(&model, unit_name);
        run(&mut model, &unit, settings, engine)
    });
    agree(&format!("{name} {unit_name}"), &generic, &fused);
}

#[test]
fn a_block_of_each_network_learns_the_same_both_ways() {
    let settings = QdropParams { iters: 24, batch_size: 6, weight: 0.1, ..Default::default() };
    for ((name, params), unit) in
        NETWORKS.into_iter().zip(["layer2.0", "layer2.0", "features.3", "s2.b1", "s1.b2", "layers.9.0"])
    {
        compare(name, params, unit, "lsq", &settings);
    }
    // Learned zero points, nothing learned, a batch size that leaves a partial chunk, no drop, a classifier.
    compare("resnet18", "{image_size: 32}", "layer1.0", "lsq_plus", &QdropParams { batch_size: 7, ..settings.clone() });
    compare(
        "mobilenet_v2",
        "{image_size: 32}",
        "features.2",
        "fixed",
        &QdropParams { drop_prob: 1.0, ..settings.clone() },
    );
    compare("resnet18", "{image_size: 32}", "fc", "lsq", &settings);
    // Weights that do not fit into the cache, with Winograd convolutions.
    compare("resnet18", "{}", "layer4.1", "lsq", &QdropParams { iters: 8, batch_size: 7, ..settings });
}

/// A block whose projection is wider than the convolution before the addition: both read one gradient.
struct WideProjection;

impl Architecture for WideProjection {
    fn graph(&self, params: &Params) -> Result<Graph> {
        params.expect_none()?;
        let mut b = GraphBuilder::new([64, 12, 12]);
        let image = b.input();
        let block = b.unit("block", |b| {
            let x = b.conv2d("reduce", image, Conv2d::new(64, 1).bias())?;
            let x = b.relu("reduce.relu", x)?;
            let x = b.conv2d("expand", x, Conv2d::new(64, 1).bias())?;
            let shortcut = b.conv2d("projection", image, Conv2d::new(64, 3).padding(1).bias())?;
            let sum = b.add("sum", x, shortcut)?;
            b.relu("sum.relu", sum)
        })?;
        let mean = b.global_average_pool("mean", block)?;
        let flat = b.flatten("flat", mean)?;
        let logits = b.unit("fc", |b| b.linear("fc", flat, 10))?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "wide_projection", aliases: [], summary: "a 3 x 3 projection beside 1 x 1 convolutions",
    build: || Box::new(WideProjection)
}

#[test]
fn a_projection_may_be_wider_than_the_layer_before_the_addition() {
    let settings = QdropParams { iters: 20, batch_size: 6, weight: 0.1, ..Default::default() };
    compare("wide_projection", "null", "block", "lsq", &settings);
}

/// Neighbouring units as one.
fn merged(model: &QuantModel, names: &[&str]) -> Unit {
    let groups = [names.iter().map(ToString::to_string).collect()];
    let units = merge_units(model.graph(), model.graph().units().to_vec(), &groups, "merge").unwrap();
    units.into_iter().find(|u| u.name.contains('+')).unwrap()
}

/// Additions of the unit's input, of values inside the unit and of convolutions of both, and a classifier after a mean.
#[test]
fn merged_units_and_a_whole_network_learn_the_same_both_ways() {
    let settings = QdropParams { iters: 12, batch_size: 6, weight: 0.1, ..Default::default() };
    for (name, units) in [
        ("mobilenet_v2", &["features.2", "features.3", "features.4"][..]),
        ("mobilenet_v2", &["features.15", "features.16"]),
        ("mobilenet_v2", &["features.18", "classifier"]),
        ("mobilenet_v2", &["features.*", "classifier"]),
        ("resnet18", &["layer1.0", "layer1.1", "layer2.0"]),
        ("resnet18", &["layer2.0", "layer2.1"]),
        ("resnet50", &["layer2.0", "layer2.1"]),
        ("regnetx_600m", &["s2.b1", "s2.b2"]),
        ("mnasnet", &["layers.3", "layers.6", "layers.8.0", "layers.8.1"]),
    ] {
        // In a whole network small differences grow from step to step.
        let iters = if units.contains(&"features.*") { 1 } else { settings.iters };
        let [generic, fused] = [Runs::GENERIC, Runs::FUSED].map(|engine| {
            let mut model = model(name, "{image_size: 32}", "lsq");
            let unit = merged(&model, units);
            run(&mut model, &unit, &QdropParams { iters, ..settings.clone() }, engine)
        });
        // In a deep chain more values lie where another order of summation rounds an activation otherwise.
        agree_but_for(&format!("{name} {units:?}"), &generic, &fused, 0.02);
    }
}

#[test]
fn every_unit_of_the_published_networks_has_a_fused_step() {
    let settings = QdropParams { iters: 1, batch_size: 2, ..Default::default() };
    for (name, params) in NETWORKS {
        let mut model = model(name, params, "lsq");
        let units = model.graph().units().to_vec();
        // One block of each kind, because later blocks of a stage are like the second one.
        for unit in units.iter().filter(|u| !u.name.contains(".b3") && !u.name.ends_with(".3")) {
            let (losses, _) = run(&mut model, unit, &settings, Runs::FUSED);
            assert!(losses[0].reconstruction.is_finite(), "{name} {}", unit.name);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let settings = QdropParams { iters: 6, batch_size: 5, warm_up: 0.0, ..Default::default() };
    for (network, unit) in [("mobilenet_v2", "features.2"), ("mobilenet_v2", "features.5"), ("resnet18", "layer2.0")] {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut model = model(network, "{image_size: 32}", "lsq");
                let unit = self::unit(&model, unit);
                run(&mut model, &unit, &settings, Runs::FUSED)
            })
        };
        let one = with(1);
        assert!(one == with(2) && one == with(3) && one == with(6), "{network} {unit}");
    }
}

/// Records why the fused engine cannot compute units.
#[derive(Default)]
pub struct Reasons(pub std::sync::Mutex<Vec<String>>);

impl Progress for Reasons {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Generic { unit, why } => self.0.lock().unwrap().push(format!("{unit}: {why}")),
            Event::GenericRest { unit, why } => self.0.lock().unwrap().push(format!("after {unit}: {why}")),
            _ => {}
        }
    }
}

#[test]
fn other_units_go_the_generic_way_and_say_why() {
    // No kernel computes the gradient of an enlargement.
    let mut model = model("kinds_of_blocks", &kind("enlarged"), "lsq");
    let unit = unit(&model, "block");
    let samples = samples(&model, &unit);
    let mut task = UnitTask::new(&mut model, &unit, 0, samples).unwrap();
    let settings = QdropParams { iters: 1, batch_size: 2, ..Default::default() };
    task.begin(&settings.groups()).unwrap();
    let (random, reasons) = (SeededRandom { seed: 1 }, Reasons::default());
    let mut context = Context { random: &random, progress: &reasons, interruption: &Forget, engine: Engine::Auto };
    optimize(&task, &settings, &context).unwrap();
    let said = reasons.0.lock().unwrap().clone();
    assert_eq!(said.len(), 1);
    assert!(
        said[0].contains("'large' (upsample_nearest) is an operation that the fused engine does not support"),
        "{said:?}"
    );
    context.engine = Engine::Fused;
    let error = optimize(&task, &settings, &context).unwrap_err().to_string();
    assert!(
        error.contains("the fused engine cannot compute this unit: ") && error.contains("use --engine auto"),
        "{error}"
    );
}
