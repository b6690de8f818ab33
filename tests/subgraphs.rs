//! Units with several inputs and outputs, and merged units, in whole runs: calibrated, reconstructed, saved, stopped,
//! resumed and evaluated.

use crate::support::*;
use qdrop::core::graph::Graph;
use qdrop::core::progress::{Event, Progress, Silent};
use qdrop::recipes::Loader;
use qdrop::Run;
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Two branches of different sizes that cross in a unit with two inputs and two outputs, as in a feature pyramid.
struct Crossing;

impl Architecture for Crossing {
    fn graph(&self, params: &Params) -> Result<Graph> {
        params.expect_none()?;
        let mut b = GraphBuilder::new([1, 28, 28]);
        let image = b.input();
        let layer = |b: &mut GraphBuilder, name: &str, x, conv: Conv2d| -> Result<NodeId> {
            let x = b.conv2d(name, x, conv.bias())?;
            b.relu(&format!("{name}.relu"), x)
        };
        let wide = b.unit("wide", |b| layer(b, "wide", image, Conv2d::new(6, 3).stride(2).padding(1)))?;
        let small = b.unit("small", |b| layer(b, "small", wide, Conv2d::new(8, 3).stride(2).padding(1)))?;
        let (up, down) = b.unit("cross", |b| {
            let raised = b.conv2d("raised", small, Conv2d::new(6, 1).bias())?;
            let raised = b.upsample_nearest("enlarged", raised, [2, 2])?;
            let up = b.add("up", wide, raised)?;
            let up = b.relu("up.relu", up)?;
            let lowered = b.conv2d("lowered", up, Conv2d::new(8, 3).stride(2).padding(1).bias())?;
            let down = b.add("down", lowered, small)?;
            Ok((up, b.relu("down.relu", down)?))
        })?;
        // Nodes between the units.
        let up = b.max_pool("pooled", up, Pool2d::new(2))?;
        let both = b.concat("both", &[up, down])?;
        let head = b.unit("head", |b| layer(b, "head", both, Conv2d::new(16, 3).padding(1)))?;
        let mean = b.global_average_pool("mean", head)?;
        let flat = b.flatten("flat", mean)?;
        let logits = b.unit("fc", |b| b.linear("fc", flat, 10))?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "crossing", aliases: [], summary: "branches that cross",
    build: || Box::new(Crossing)
}

/// The demo with this network and random weights.
fn crossing(dir: &Path, engine: &str) -> Loader<'static> {
    let weights = dir.join("weights.safetensors");
    if !weights.exists() {
        let graph = Crossing.graph(&Params::none("test")).unwrap();
        let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
            let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f64;
            let x = noise(&shape, i as u32);
            (name, x.affine(if shape.len() > 1 { (3.0 / fan_in).sqrt() } else { 0.1 }, 0.0).unwrap())
        };
        let tensors: HashMap<String, Tensor> =
            graph.parameter_shapes().into_iter().enumerate().map(parameter).collect();
        candle_core::safetensors::save(&tensors, &weights).unwrap();
    }
    small().set("model.architecture=crossing").set(format!("engine={engine}")).weights(weights)
}

fn small() -> Loader<'static> {
    Loader::new("demo")
        .set("calibration={images: 64, observe: 32}")
        .set("evaluation.images=200")
        .set("compare=[]")
        .iters(12)
}

/// Requests to stop after some steps, and records the losses of each unit.
#[derive(Default)]
struct StopAfter {
    steps: usize,
    seen: AtomicUsize,
    stop: AtomicBool,
}

impl Progress for StopAfter {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
            self.stop.fetch_or(seen == self.steps, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs a recipe once without a stop, and once stopped after some steps and resumed. Both must save the same result,
/// and its evaluation must give the values that the run measured.
fn stopped_equals_whole(recipe: &dyn Fn() -> Loader<'static>, units: &[&str], stop: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let run = |out: &Path| Run::new(recipe().load().unwrap()).unwrap().out(out).unwrap();
    let outcome = run(&whole).quantize().unwrap();
    let names: Vec<_> = outcome.units.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, units);
    let progress = StopAfter { steps: stop, ..Default::default() };
    let error = run(&stopped).progress(&progress).quantize().err().unwrap();
    assert!(error.is_cancelled(), "{error}");
    qdrop::resume(&stopped, &Silent).unwrap();
    let model = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(model(&stopped) == model(&whole), "the resumed result differs");
    assert_eq!(qdrop::evaluate(&stopped).unwrap(), outcome.summary.quantized);
}

#[test]
fn a_unit_of_two_inputs_and_outputs_is_reconstructed_saved_resumed_and_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    // This stops within the crossing unit: two units of 12 steps come before it.
    let units = ["wide", "small", "cross", "head", "fc"];
    stopped_equals_whole(&|| crossing(dir.path(), "auto"), &units, 12 + 12 + 5);
    // More steps lower the loss, although learning begins at the best result without learning, rounding to nearest.
    let recipe = crossing(dir.path(), "auto").iters(150).set("reconstruction.params.drop_prob=1.0").load().unwrap();
    let outcome = Run::new(recipe).unwrap().quantize().unwrap();
    let cross = outcome.units.iter().find(|u| u.name == "cross").unwrap();
    let (first, last) = (cross.mean_losses(false).unwrap(), cross.mean_losses(true).unwrap());
    assert!(last.reconstruction < first.reconstruction, "{first:?} {last:?}");
    // A chain has one input and one output.
    let error = Run::new(crossing(dir.path(), "fused").load().unwrap()).unwrap().quantize().err().unwrap().to_string();
    assert!(
        error.contains("'cross': the fused engine cannot compute this unit: the unit has 2 inputs and 2 outputs"),
        "{error}"
    );
}

#[test]
fn its_loss_is_that_of_both_outputs() {
    let graph = Crossing.graph(&Params::none("test")).unwrap();
    let unit = graph.units().iter().find(|u| u.name == "cross").unwrap().clone();
    let parameters = noise_parameters(&graph);
    let mut model = qdrop_core::model::QuantModel::new(graph.clone(), parameters, Device::Cpu);
    let shape = |id: &NodeId| [&[4], graph.node(*id).shape.as_slice()].concat();
    let inputs: Vec<Tensor> = unit.subgraph.inputs().iter().map(|id| noise(&shape(id), 7)).collect();
    let targets: Vec<Tensor> = unit.subgraph.outputs().iter().map(|id| noise(&shape(id), 8)).collect();
    assert_ne!(targets[0].dims(), targets[1].dims());
    let outputs = model.run(&unit.subgraph, &inputs, qdrop_core::model::Precision::Float).unwrap();
    let want: f64 = outputs
        .iter()
        .zip(&targets)
        .map(|(output, target)| {
            let positions = (output.elem_count() / output.dim(1).unwrap()) as f64;
            vec(output).iter().zip(vec(target)).map(|(o, t)| f64::from(o - t).powi(2)).sum::<f64>() / positions
        })
        .sum();
    let data = UnitData { quantized_inputs: inputs.clone(), float_inputs: inputs, float_outputs: targets };
    let samples = qdrop_core::engine::UnitSamples::in_memory(&data).unwrap();
    let mut task = UnitTask::new(&mut model, &unit, 0, samples).unwrap();
    task.begin(&[groups::BIAS]).unwrap();
    let random = qdrop_core::random::SeededRandom { seed: 1 };
    let (progress, interruption) = (&Silent, &qdrop_core::reconstructor::Forget);
    let context = Context { random: &random, progress, interruption, engine: Engine::Auto };
    let mut engine = task.engine(4, &context).unwrap();
    let loss = engine.loss(&[0, 1, 2, 3], &|_| ops::Keep::All).unwrap();
    assert!((loss - want).abs() < 1e-5 * want, "{loss} {want}");
    // Only biases are learned here; the loss must decrease along their gradient.
    engine.update(&[(groups::BIAS, 1e-2)], None).unwrap();
    let next = engine.loss(&[0, 1, 2, 3], &|_| ops::Keep::All).unwrap();
    assert!(next < loss, "{next} {loss}");
}

#[test]
fn merged_blocks_are_one_unit() {
    let merge = |groups: &str| small().set(format!("reconstruction.merge={groups}"));
    let units =
        ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0+layer3.1", "layer4.0", "layer4.1", "fc"];
    stopped_equals_whole(&|| merge("[[layer3.0, layer3.1]]"), &units, 5 * 12 + 7);
    // The whole network as one unit, including the pooling between its blocks.
    let outcome = Run::new(merge("[['*']]").iters(3).load().unwrap()).unwrap().quantize().unwrap();
    assert_eq!(outcome.units.len(), 1);
    assert!(outcome.units[0].losses[0].reconstruction > 0.0);
    let plan = Run::new(merge("[['layer4.*']]").load().unwrap()).unwrap().plan().unwrap();
    assert_eq!(plan.units, 9);
    let error = Run::new(merge("[[layer3.0, layer4.0]]").load().unwrap()).unwrap().plan().unwrap_err().to_string();
    assert!(
        error.contains("reconstruction.merge[0]: its units are not neighbours: 'layer3.1' lies between"),
        "{error}"
    );
}

#[test]
fn the_whole_network_learns_last_and_predicts_what_the_float_network_predicts() {
    let recipe = |steps: usize| {
        let network = format!("{{iters: {steps}, batch_size: 16, lr: 0.1, weight: 1.0e-3, rates: {{bias: 1.0e-3}}}}");
        small().set("reconstruction.params.iters=12").set(format!("reconstruction.params.network={network}"))
    };
    let units =
        ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc"];
    let all = [&units[..], &["network"]].concat();
    let of = |steps| move || recipe(steps);
    // Stops in the last stage.
    stopped_equals_whole(&of(16), &all, 10 * 12 + 7);
    let outcome = Run::new(recipe(60).load().unwrap()).unwrap().quantize().unwrap();
    let report = &outcome.units[units.len()];
    let (first, last) = (report.mean_losses(false).unwrap(), report.mean_losses(true).unwrap());
    assert!(last.reconstruction < 0.8 * first.reconstruction, "{first:?} {last:?}");
    // Roundings settle, some of them elsewhere than before.
    assert!(report.soft_share.unwrap() < 0.5, "{:?}", report.soft_share);
    let plan = Run::new(recipe(16).load().unwrap()).unwrap().plan().unwrap();
    assert_eq!(plan.units, 10);
    let error = Run::new(small().set("reconstruction.params.network={open: 0.5}").load().unwrap()).unwrap().check();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("reconstruction.params.network.open: must be at least 0 and less than 0.5"), "{error}");
}

#[test]
fn prepared_networks_are_saved_resumed_and_evaluated() {
    // The correction reads statistics that `equalize` scales. A shortened run takes two of its steps.
    let correction = "reconstruction.params.distribution_correction={iters: 50, lr: 0.02}";
    let recipe = || small().set("prepare=[equalize, bias_correction]").set(correction);
    let units =
        ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc"];
    stopped_equals_whole(&recipe, &units, 12 + 5);
    // Without a reconstruction, the corrected biases are saved too.
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe().set("reconstruction=none").load().unwrap();
    let outcome = Run::new(recipe).unwrap().out(dir.path().join("out")).unwrap().quantize().unwrap();
    assert_eq!(qdrop::evaluate(dir.path().join("out")).unwrap(), outcome.summary.quantized);
}
