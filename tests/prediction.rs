//! The prediction difference, and the rest of the network that it is computed with.

use crate::fused::{divergence, model, model_with, samples, unit, Reasons};
use crate::fused_graphs::kind;
use crate::strategies::{learn, reconstructor, SMALL};
use crate::support::*;
use qdrop_core::model::Precision;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::{RandomSource, SeededRandom};
use qdrop_core::reconstructor::Forget;

#[test]
fn the_rest_of_the_network_passes_gradients_to_a_unit() {
    let mut model = model("resnet18", SMALL, "lsq");
    let unit = unit(&model, "layer4.0");
    let cached = samples(&model, &unit);
    let dims = [&[8], model.graph().input_shape()].concat();
    let whole = model.forward(&noise(&dims, 3), Precision::Float).unwrap();
    let task = UnitTask::new(&mut model, &unit, 0, cached).unwrap();
    let random = SeededRandom { seed: 7 };
    for engine in [Engine::Generic, Engine::Fused] {
        let rest = task.rest(&Context { random: &random, progress: &Silent, interruption: &Forget, engine }).unwrap();
        let batch = [1, 4];
        let target = task.targets(&batch).unwrap().remove(0);
        let output = Var::from_tensor(&target).unwrap();
        let logits = rest.forward(&[output.as_tensor().clone()], &batch).unwrap().remove(0);
        assert_eq!(logits.dims()[1..], whole[0].dims()[1..]);
        let upstream = noise(logits.dims(), 4);
        let gradient = (logits * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradient.get(output.as_tensor()).unwrap();
        // Finite differences along the gradient, because the kinks of activation functions matter least there.
        let size = vec(gradient).iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let along = |by: f64| -> f64 {
            let moved = (&target + (gradient * (by / size)).unwrap()).unwrap();
            let logits = vec(&rest.forward(&[moved], &batch).unwrap()[0]);
            logits.iter().zip(vec(&upstream)).map(|(l, u)| f64::from(*l) * f64::from(u)).sum()
        };
        let difference = (along(1e-2) - along(-1e-2)) / 2e-2;
        assert!((difference - size).abs() <= 1e-2 * size, "{engine:?}: {difference} {size}");
        let error = rest.forward(&[], &batch).unwrap_err().to_string();
        assert!(error.contains("0 outputs were given, it has 1"), "{error}");
    }
}

/// Units after which all that a rest may consist of comes: pooling before the first layer, shortcuts with and without a
/// convolution, grouped convolutions, gates, branches, pools, shuffles, the mean before the classifier, nothing. The larger images pass in several chunks.
const BEFORE_RESTS: [[&str; 3]; 17] = [
    ["resnet18", SMALL, "conv1"],
    ["resnet18", SMALL, "layer1.0"],
    ["mobilenet_v2", SMALL, "features.0"],
    ["mobilenet_v2", "{image_size: 96}", "features.0"],
    ["mobilenet_v2", SMALL, "features.14"],
    ["mobilenet_v2", SMALL, "features.18"],
    ["mobilenet_v2", SMALL, "classifier"],
    ["regnetx_600m", SMALL, "stem"],
    ["mnasnet", SMALL, "layers.8.0"],
    ["regnety_400m", SMALL, "stem"],
    ["kinds_of_blocks", "{kind: gate}", "stem"],
    ["kinds_of_blocks", "{kind: hard_gate}", "stem"],
    ["kinds_of_blocks", "{kind: inception}", "stem"],
    ["kinds_of_blocks", "{kind: shuffle_down}", "stem"],
    ["kinds_of_blocks", "{kind: dense}", "stem"],
    ["kinds_of_blocks", "{kind: odd, size: 60}", "stem"],
    ["kinds_of_blocks", "{kind: pooled}", "stem"],
];

#[test]
fn the_rest_of_the_network_is_the_same_on_both_engines() {
    let random = SeededRandom { seed: 7 };
    for [network, size, name] in BEFORE_RESTS {
        let mut model = model(network, size, "lsq");
        let unit = unit(&model, name);
        let cached = samples(&model, &unit);
        let task = UnitTask::new(&mut model, &unit, 0, cached).unwrap();
        let events = Reasons::default();
        let rests = [Engine::Generic, Engine::Fused].map(|engine| {
            task.rest(&Context { random: &random, progress: &events, interruption: &Forget, engine }).unwrap()
        });
        assert!(events.0.lock().unwrap().is_empty(), "{network} {name}: {:?}", events.0.lock().unwrap());
        // Outputs, and the gradient of the sum of these times a number for each output.
        type Both = (Vec<f32>, Vec<f32>);
        let run = |rest: &Rest<'_>, batch: &[usize]| -> Both {
            let output = Var::from_tensor(&task.targets(batch).unwrap().remove(0)).unwrap();
            let logits = rest.forward(&[output.as_tensor().clone()], batch).unwrap().remove(0);
            let upstream = noise(&[&[1], &logits.dims()[1..]].concat(), 4);
            let gradients = logits.broadcast_mul(&upstream).unwrap().sum_all().unwrap().backward().unwrap();
            (vec(&logits), vec(gradients.get(output.as_tensor()).unwrap()))
        };
        for batch in [vec![1, 4, 3], vec![0, 1, 2, 3, 4, 5, 7]] {
            let [(logits, gradient), (fused_logits, fused_gradient)] = &rests.each_ref().map(|rest| run(rest, &batch));
            // Whatever chunk a sample is in, its values are the same.
            let alone: Vec<_> = batch.iter().map(|sample| run(&rests[1], &[*sample])).collect();
            let joined = |pick: fn(&Both) -> &Vec<f32>| alone.iter().flat_map(pick).copied().collect::<Vec<f32>>();
            assert!(
                joined(|both| &both.0) == *fused_logits && joined(|both| &both.1) == *fused_gradient,
                "{network} {name}"
            );
            let difference = |want: &[f32], got: &[f32]| {
                let size =
                    |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let whole = size(&mut want.iter().copied());
                assert!(whole > 0.0 && want.len() == got.len(), "{network} {name}");
                size(&mut want.iter().zip(got).map(|(w, g)| w - g)) / whole
            };
            let outputs = difference(logits, fused_logits);
            assert!(outputs < 1e-5, "{network} {name}, {} samples: outputs differ by {outputs}", batch.len());
            // Of many values, rounding puts some on the other side of an activation function's kink.
            let bound = if size == SMALL { 1e-5 } else { 5e-3 };
            let gradients = difference(gradient, fused_gradient);
            assert!(gradients < bound, "{network} {name}, {} samples: gradients differ by {gradients}", batch.len());
        }
    }
}

#[test]
fn a_rest_that_the_fused_kernels_cannot_compute_says_why() {
    // No kernel computes the gradient of an enlargement.
    let mut model = model("kinds_of_blocks", &kind("enlarged"), "lsq");
    let unit = unit(&model, "stem");
    let samples = samples(&model, &unit);
    let task = UnitTask::new(&mut model, &unit, 0, samples).unwrap();
    let (random, reasons) = (SeededRandom { seed: 1 }, Reasons::default());
    for engine in [Engine::Generic, Engine::Auto] {
        task.rest(&Context { random: &random, progress: &reasons, interruption: &Forget, engine }).unwrap();
    }
    let said = reasons.0.lock().unwrap().clone();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("after stem: "), "{said:?}");
    assert!(said[0].contains("'large' (upsample_nearest) is an operation"), "{said:?}");
}

#[test]
fn the_prediction_difference_is_that_of_the_networks_outputs() {
    for (network, name) in [("resnet18", "layer4.0"), ("resnet18", "fc")] {
        let first = |engine: &Runs, difference: &str| {
            let params = format!("{{iters: 1, batch_size: 6, drop_prob: 1.0{difference}}}");
            learn([network, name], ["fixed", "lsq"], &params, engine, &Silent, &Forget).unwrap().0.losses[0]
                .reconstruction
        };
        let model = model_with(network, SMALL, ["fixed", "lsq"]);
        let unit = unit(&model, name);
        let samples = samples(&model, &unit);
        let batch = SeededRandom { seed: 7 }.batch(3, 0, 6, 8);
        let target = samples.targets(&batch).unwrap();
        let input = [samples.quantized_inputs[0].gather(&batch).unwrap()];
        let output = model.run(&unit.subgraph, &input, Precision::Quantized).unwrap();
        // Of the whole batch, and of its first samples.
        for (samples, given) in [(6, ""), (2, ", samples: 2")] {
            let first_of = |values: &[Tensor]| values.iter().map(|x| x.narrow(0, 0, samples).unwrap()).collect();
            let divergence = divergence(&model, &unit.subgraph, [first_of(&target), first_of(&output)]);
            assert!(divergence > 1e-6, "{name}: {divergence}");
            for engine in Runs::all() {
                let plain = first(&engine, "");
                let with = first(&engine, &format!(", prediction_difference: {{weight: 1000, temperature: 2{given}}}"));
                let got = (with - plain) / 1000.0;
                // The loss is a sum in f32.
                let tolerance = 1e-3 * divergence + 1e-6 * plain / 1000.0;
                assert!(
                    (got - divergence).abs() < tolerance,
                    "{engine:?} {name}{given}: {got} {divergence}, of a loss {plain}"
                );
            }
        }
    }
}

#[test]
fn the_loss_beside_the_prediction_difference_is_clipped_too() {
    let first = |engine: &Runs, params: &str| {
        let params = format!("{{iters: 1, batch_size: 6, drop_prob: 1.0{params}}}");
        let unit = ["resnet18", "layer4.0"];
        learn(unit, ["fixed", "lsq"], &params, engine, &Silent, &Forget).unwrap().0.losses[0].reconstruction
    };
    for engine in Runs::all() {
        let [plain, clipped] = ["", ", clip_targets: true"].map(|params| first(&engine, params));
        assert!(plain - clipped > 5e-4 * plain, "{engine:?}: nothing is clipped: {plain} {clipped}");
        let with = first(&engine, ", clip_targets: true, prediction_difference: {weight: 0}");
        assert!((with - clipped).abs() < 1e-5 * clipped, "{engine:?}: {with} {clipped}");
    }
}

#[test]
fn the_prediction_difference_learns_the_same_on_all_engines() {
    let params = "{iters: 10, batch_size: 6, weight: 0.1, lr: 0.01, prediction_difference: {}}";
    let runs = Runs::all().into_iter().map(|engine| {
        let (report, values) =
            learn(["mobilenet_v2", "features.16"], ["adaround", "lsq"], params, &engine, &Silent, &Forget).unwrap();
        (report.losses, values)
    });
    let runs: Vec<_> = runs.collect();
    for other in &runs[1..] {
        for (step, (want, got)) in runs[0].0.iter().zip(&other.0).enumerate() {
            let (want, got) = (want.reconstruction, got.reconstruction);
            assert!((want - got).abs() < 1e-3 * want, "step {step}: {want} {got}");
        }
    }
}

/// A network with two outputs, of which one is computed early, and a value that passes a unit.
struct TwoHeads;

impl Architecture for TwoHeads {
    fn graph(&self, params: &Params) -> Result<Graph> {
        params.expect_none()?;
        let mut b = GraphBuilder::new([3, 6, 6]);
        let image = b.input();
        let stem = b.unit("stem", |b| b.conv2d("stem", image, Conv2d::new(4, 3).padding(1).bias()))?;
        let mean = b.global_average_pool("early", stem)?;
        let flat = b.flatten("early.flat", mean)?;
        let early = b.unit("early.fc", |b| b.linear("early.fc", flat, 3))?;
        let conv = b.unit("conv", |b| b.conv2d("conv", stem, Conv2d::new(4, 3).padding(1).bias()))?;
        let sum = b.add("sum", conv, stem)?;
        let mean = b.global_average_pool("late", sum)?;
        let flat = b.flatten("late.flat", mean)?;
        let late = b.unit("late.fc", |b| b.linear("late.fc", flat, 3))?;
        b.finish_with_outputs(&[early, late])
    }
}

register_architecture! {
    name: "two_heads", aliases: [], summary: "a network with two outputs and a value that passes a unit",
    build: || Box::new(TwoHeads)
}

#[test]
fn the_prediction_difference_reads_all_outputs_and_values_that_pass_the_unit() {
    use qdrop_core::cache::{CacheBudget, CachedValues};
    use qdrop_core::pipeline::{reconstruct, Resources};
    let mut model = model_with("two_heads", "null", ["adaround", "lsq"]);
    let resources = Resources {
        images: CachedValues::in_memory(&noise(&[8, 3, 6, 6], 9)).unwrap(),
        cache: CacheBudget::unlimited(),
        random: &SeededRandom { seed: 7 },
        progress: &Silent,
        engine: Engine::Auto,
        merge: &[],
        checkpoints: None,
    };
    let reconstructor = reconstructor("{iters: 3, batch_size: 4, prediction_difference: {}}").unwrap();
    let reports = reconstruct(&mut model, &*reconstructor, &resources, None).unwrap();
    assert_eq!(reports.len(), 4);
}
