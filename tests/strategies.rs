//! The strategies of the reconstructor beyond the published method, on all engines.

use crate::fused::{agree, model_with, run, samples, unit};
use crate::support::*;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::ops::Keep;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::random::{RandomSource, SeededRandom};
use qdrop_core::reconstructor::{Forget, Interruption};
use qdrop_plugins::reconstructors::{Drop, QdropParams};
use std::sync::atomic::AtomicUsize;
use std::sync::Mutex;

pub const SMALL: &str = "{image_size: 32}";

/// Saves the state in memory.
#[derive(Default)]
struct Kept(Mutex<Option<Interrupted>>);

impl Interruption for Kept {
    fn resume(&self) -> Result<Option<Interrupted>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn keep(&self, state: &Interrupted) -> Result<()> {
        let mut state = state.clone();
        // As in a file: later updates of the variables must not change it.
        state.tensors.values_mut().for_each(|tensor| *tensor = tensor.copy().unwrap());
        *self.0.lock().unwrap() = Some(state);
        Ok(())
    }
}

/// The reconstructor `qdrop` with these parameters.
pub fn reconstructor(params: &str) -> Result<Box<dyn Reconstructor>> {
    let params = Params::new("reconstruction.params", serde_yaml::from_str(params).unwrap());
    registries().reconstructors.get("qdrop", "test").unwrap().build(&params)
}

/// The weights and scales of a unit.
fn result(model: &QuantModel, unit: &qdrop_core::graph::Unit) -> Vec<Vec<f32>> {
    let nodes = unit.nodes();
    let weights = nodes.iter().filter_map(|id| model.weight(*id).ok()).map(vec);
    let scales = nodes.iter().filter_map(|id| Some(model.activation_site(*id)?.quantizer.qparams().unwrap().scale));
    weights.chain(scales).collect()
}

/// Reconstructs a unit and returns its report and its values.
pub fn learn(
    [network, name]: [&str; 2],
    quantizers: [&str; 2],
    params: &str,
    engine: &Runs,
    progress: &dyn Progress,
    interruption: &dyn Interruption,
) -> Result<(UnitReport, Vec<Vec<f32>>)> {
    let mut model = model_with(network, SMALL, quantizers);
    let unit = unit(&model, name);
    let samples = samples(&model, &unit);
    let random = SeededRandom { seed: 7 };
    let context = Context { random: &random, progress, interruption, engine: engine.engine() };
    let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
    let report = reconstructor(params)?.reconstruct(&mut task, &context)?;
    drop(task);
    Ok((UnitReport { seconds: 0.0, ..report }, result(&model, &unit)))
}

#[test]
fn the_hard_loss_is_that_of_the_finished_unit_and_changes_nothing() {
    for engine in Runs::all() {
        let ends = [false, true].map(|measure| {
            let mut model = model_with("mobilenet_v2", SMALL, ["adaround {learn_scale: true}", "lsq"]);
            let unit = unit(&model, "features.3");
            let samples = samples(&model, &unit);
            let rates =
                [(groups::ROUNDING, 0.01), (groups::SCALE, 0.01), (groups::WEIGHT_SCALE, 0.1), (groups::BIAS, 0.1)];
            let batch = [5, 0, 3, 1, 7, 2];
            let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples.clone()).unwrap());
            task.begin(&rates.map(|(group, _)| group)).unwrap();
            let random = SeededRandom { seed: 7 };
            let context =
                Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
            let mut steps = task.engine(6, &context).unwrap();
            let mut measured = 0.0;
            for step in 0..4 {
                steps.loss(&random.batch(0, step, 6, 8), &|site| random.keep(0, step, site, 0.5)).unwrap();
                steps.update(&rates, Some(Regularizer { weight: 0.1, b: 10.0 })).unwrap();
                if measure {
                    measured = steps.hard_loss(&batch).unwrap();
                    let error = steps.update(&rates, None).unwrap_err().to_string();
                    assert!(error.contains("an update without gradients"), "{error}");
                }
            }
            let soft = steps.loss(&batch, &|_| Keep::All).unwrap();
            assert!(!measure || (soft - measured).abs() > 0.01 * soft, "hard roundings make a difference");
            steps.finish().unwrap();
            drop(steps);
            task.finish().unwrap();
            assert!(task.soft_share().unwrap() > 0.1);
            drop(task);
            if measure {
                // Measured by the model, whose weights are hard now.
                let inputs = [samples.quantized_inputs[0].gather(&batch).unwrap()];
                let output = model.run(&unit.subgraph, &inputs, Precision::Quantized).unwrap().remove(0);
                let target = samples.targets(&batch).unwrap().remove(0);
                let want = ops::reconstruction_loss(&output, &target).unwrap().to_scalar::<f32>().unwrap();
                assert!((measured as f32 - want).abs() < 1e-4 * want, "{engine:?}: {measured} {want}");
            }
            result(&model, &unit)
        });
        assert!(ends[0] == ends[1], "{engine:?}: measuring changed what is learned");
    }
}

#[test]
fn passes_of_straight_through_roundings_are_the_hard_ones() {
    for engine in Runs::all() {
        let mut model =
            model_with("mobilenet_v2", SMALL, ["adaround {learn_scale: true, straight_through: true}", "lsq"]);
        let unit = unit(&model, "features.3");
        let samples = samples(&model, &unit);
        let rates = [groups::ROUNDING, groups::SCALE, groups::WEIGHT_SCALE].map(|group| (group, 0.05));
        let batch = [5, 0, 3, 1, 7, 2];
        let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples).unwrap());
        task.begin(&rates.map(|(group, _)| group)).unwrap();
        let context = Context {
            random: &SeededRandom { seed: 7 },
            progress: &Silent,
            interruption: &Forget,
            engine: engine.engine(),
        };
        let mut steps = task.engine(6, &context).unwrap();
        let losses = [0, 1, 2].map(|_| {
            let hard = steps.hard_loss(&batch).unwrap();
            let loss = steps.loss(&batch, &|_| Keep::All).unwrap();
            assert!((loss - hard).abs() <= 1e-5 * hard, "{engine:?}: {loss} {hard}");
            // There is nothing to settle.
            assert_eq!(steps.update(&rates, Some(Regularizer { weight: 0.1, b: 10.0 })).unwrap(), 0.0);
            loss
        });
        assert!(losses[2] < losses[0], "{engine:?}: {losses:?}");
        steps.finish().unwrap();
        drop(steps);
        task.finish().unwrap();
        assert_eq!(task.soft_share(), None);
    }
}

#[test]
fn sizes_and_means_of_outputs_are_those_of_the_float_network() {
    // A linear output, one with a shortcut, an activation function behind an addition, and one behind a convolution. A sum's
    // size depends on its other part too.
    for (network, name, sized) in [
        ("mobilenet_v2", "features.2", true),
        ("mobilenet_v2", "features.3", false),
        ("resnet18", "layer1.0", false),
        ("mobilenet_v2", "features.0", true),
    ] {
        let mut model = model_with(network, SMALL, ["adaround", "fixed"]);
        let float = model.float_copy();
        let unit = unit(&model, name);
        let samples = samples(&model, &unit);
        let all: Vec<usize> = (0..8).collect();
        // The unit's weights shrink, and its biases move.
        for node in unit.nodes() {
            let Some(site) = model.weight_site(*node) else { continue };
            let (layer, weight) = (site.name.clone(), model.weight(*node).unwrap().affine(0.7, 0.0).unwrap());
            model.set_parameter(&format!("{layer}.weight"), weight).unwrap();
            let bias = format!("{layer}.bias");
            let moved = model.parameter(&bias).unwrap().affine(1.0, 0.05).unwrap();
            model.set_parameter(&bias, moved).unwrap();
        }
        let target = samples.targets(&all).unwrap().remove(0);
        let scalar = |x: Result<Tensor, candle_core::Error>| x.unwrap().to_scalar::<f32>().unwrap();
        // Squared distance of the channels' means, the ratio of the outputs' variances, and the mean squared difference.
        let apart = |model: &QuantModel| {
            let inputs = [samples.quantized_inputs[0].gather(&all).unwrap()];
            let output = model.run(&unit.subgraph, &inputs, Precision::Quantized).unwrap().remove(0);
            let means = [&target, &output].map(|x| x.mean_keepdim((0, 2, 3)).unwrap());
            let [want, got] = [(&target, &means[0]), (&output, &means[1])]
                .map(|(x, mean)| scalar(x.broadcast_sub(mean).unwrap().sqr().unwrap().mean_all()));
            let distance = scalar((&means[0] - &means[1]).unwrap().sqr().unwrap().sum_all());
            (distance, got / want, scalar((&target - &output).unwrap().sqr().unwrap().mean_all()))
        };
        let finished = |model: &mut QuantModel, count: usize| {
            let mut task = UnitTask::new(model, &unit, 0, samples.clone()).unwrap().of_float(&float);
            task.begin(&[groups::ROUNDING]).unwrap();
            task.finish().unwrap();
            task.match_statistics(count).unwrap();
        };
        finished(&mut model, 0);
        let before = apart(&model);
        finished(&mut model, 8);
        let after = apart(&model);
        assert!(after.0 < 0.3 * before.0 && after.2 < before.2, "{network} {name}: {before:?} {after:?}");
        if sized {
            // Not closer, because sizes are compared behind the output's quantizer, which cuts the largest values off.
            let [before, after] = [before.1.ln(), after.1.ln()];
            assert!(before < -0.3 && after.abs() < 0.4 * before.abs(), "{network} {name}: {before} {after}");
        }
        // Weights lie on the grid still.
        for (node, site) in model.weight_sites().filter(|(id, _)| unit.subgraph.contains(*id)) {
            let weight = model.weight(node).unwrap();
            let again = site.quantizer.fake_quantize(weight).unwrap();
            assert!(worst(&vec(&again), &vec(weight), 1e-6) < 1e-5, "{}", site.name);
        }
    }
}

#[test]
fn the_best_state_is_kept_and_survives_an_interruption() {
    for engine in [Runs::GENERIC, Runs::FUSED] {
        let learn = |params: &str, progress: &dyn Progress, interruption: &dyn Interruption| {
            learn(["resnet18", "layer1.0"], ["adaround", "lsq"], params, &engine, progress, interruption)
        };
        let run = |params: &str| learn(params, &Silent, &Forget).unwrap();
        // At large rates the loss rises and falls; with one of them the best state is not the last one.
        let params = |lr: f64, times: usize| {
            format!("{{iters: 20, batch_size: 2, lr: {lr}, scale_lr: 0.05, weight: 0, keep_best: {times}}}")
        };
        let found = [1.0, 2.0, 3.0, 5.0, 8.0].into_iter().find_map(|lr| {
            let (report, values) = run(&params(lr, 10));
            let kept = report.kept.clone().unwrap();
            assert!(kept.step >= 4, "during warm-up");
            (kept.step < 19).then_some((lr, kept, report, values))
        });
        let (lr, kept, report, values) = found.expect("a run whose best state is not the last one");
        let (last, other) = run(&params(lr, 1));
        let last = last.kept.unwrap();
        assert!(last.step == 20 && last.loss > kept.loss, "{last:?} {kept:?}");
        assert!(values != other && other == run(&params(lr, 0)).1);
        // Interrupted before the first measurement, before and after the best state.
        for stop in [2, kept.step - 1, 19] {
            let state = Kept::default();
            let stopped = learn(&params(lr, 10), &StopAfter(AtomicUsize::new(stop)), &state);
            assert!(matches!(stopped, Err(Error::Cancelled)));
            let resumed = learn(&params(lr, 10), &Silent, &state).unwrap();
            assert!(resumed == (report.clone(), values.clone()), "{engine:?}: stopped after {stop} steps");
        }
    }
}

#[test]
fn every_strategy_resumes_with_the_same_result() {
    let network = ["mobilenet_v2", "features.3"];
    let all = Runs::all();
    for (params, engines) in [
        ("{iters: 12, batch_size: 3, batches: permutation, lr_decay: cosine, lr: 0.05}", &all[..]),
        ("{iters: 12, batch_size: 3, start: gptq, keep_best: 4, lr: 0.05}", &all[..]),
        ("{iters: 12, batch_size: 3, prediction_difference: {weight: 1, temperature: 2}, lr: 0.05}", &all[..]),
        (
            "{iters: 12, batch_size: 3, lr: 0.05, distribution_correction: {iters: 3}, \
             prediction_difference: {weight: 1, temperature: 2}}",
            &all[..],
        ),
        // The engine of a GPU mixes nothing.
        ("{iters: 12, batch_size: 3, drop: mix, lr: 0.05}", &all[..2]),
    ] {
        for engine in engines {
            let run = |progress: &dyn Progress, interruption: &dyn Interruption| {
                learn(network, ["adaround", "lsq"], params, engine, progress, interruption)
            };
            let whole = run(&Silent, &Forget).unwrap();
            let state = Kept::default();
            assert!(matches!(run(&StopAfter(AtomicUsize::new(7)), &state), Err(Error::Cancelled)));
            assert!(run(&Silent, &state).unwrap() == whole, "{engine:?} {params}");
        }
    }
}

#[test]
fn values_that_are_impossible_name_their_key() {
    let error = |params: &str| reconstructor(params).err().unwrap().to_string();
    assert!(
        error("{batches: shuffled}").starts_with("reconstruction.params.batches"),
        "{}",
        error("{batches: shuffled}")
    );
    assert!(error("{lr_decay: linear}").starts_with("reconstruction.params.lr_decay"));
    assert!(error("{keep_best: -1}").starts_with("reconstruction.params.keep_best"));
    assert!(error("{start: optq}").starts_with("reconstruction.params.start"));
    assert!(error("{drop: blend}").starts_with("reconstruction.params.drop"));
    let cold = error("{prediction_difference: {temperature: 0}}");
    assert!(cold.contains("reconstruction.params.prediction_difference.temperature: must be positive"), "{cold}");
    let many = error("{batch_size: 4, prediction_difference: {samples: 5}}");
    assert!(many.contains("reconstruction.params.prediction_difference.samples: must be between 1 and"), "{many}");
    let unknown = error("{prediction_difference: {lambda: 1}}");
    assert!(unknown.contains("reconstruction.params.prediction_difference") && unknown.contains("lambda"), "{unknown}");
}

#[test]
fn a_start_from_gptq_changes_outputs_less_than_nearest_rounding() {
    for (network, name) in [("mobilenet_v2", "features.3"), ("resnet18", "layer2.0"), ("resnet18", "fc")] {
        // Nothing is learned, so the loss at the end is that of the start.
        let loss = |start: &str| {
            let params = format!("{{iters: 1, batch_size: 8, keep_best: 1, start: {start}}}");
            let (report, _) =
                learn([network, name], ["fixed", "fixed"], &params, &Runs::GENERIC, &Silent, &Forget).unwrap();
            report.kept.unwrap().loss
        };
        let (nearest, gptq) = (loss("nearest"), loss("gptq"));
        assert!(gptq < 0.9 * nearest, "{network} {name}: nearest {nearest}, gptq {gptq}");
    }
}

#[test]
fn a_weight_of_another_unit_is_not_replaced() {
    let mut model = model_with("resnet18", SMALL, ["adaround", "lsq"]);
    let (own, other) = (unit(&model, "layer1.0"), unit(&model, "fc"));
    let cached = samples(&model, &own);
    let weight = model.weight(other.nodes()[0]).unwrap().clone();
    let mut task = UnitTask::new(&mut model, &own, 0, cached).unwrap();
    let error = task.set_weight(other.nodes()[0], weight).unwrap_err().to_string();
    assert!(error.contains("'layer1.0': 'fc', whose weight should be replaced, is not part of it"), "{error}");
}

#[test]
fn mixed_values_learn_the_same_on_both_engines_of_the_cpu() {
    // Shortcuts of all kinds, and large images, of which a batch takes several chunks.
    for (network, params, name, activation) in [
        ("resnet18", SMALL, "layer2.0", "lsq"),
        ("resnet18", "{image_size: 128}", "layer1.1", "lsq_plus"),
        ("mobilenet_v2", SMALL, "features.3", "lsq_plus"),
        ("mobilenet_v2", "{image_size: 96}", "features.2", "lsq"),
    ] {
        let mixed = QdropParams { iters: 8, batch_size: 6, weight: 0.1, drop: Drop::Mix, ..Default::default() };
        let learn = |settings: &QdropParams, engine: Runs| {
            let mut model = model_with(network, params, ["adaround", activation]);
            let unit = unit(&model, name);
            run(&mut model, &unit, settings, engine)
        };
        let generic = learn(&mixed, Runs::GENERIC);
        agree(name, &generic, &learn(&mixed, Runs::FUSED));
        let chosen = learn(&QdropParams { drop: Drop::Coin, ..mixed }, Runs::FUSED);
        assert!((chosen.0[0].reconstruction / generic.0[0].reconstruction - 1.0).abs() > 1e-3, "{name}");
    }
}

#[test]
fn the_engine_of_a_gpu_refuses_to_mix_values() {
    for device in cuda_devices() {
        let params = "{iters: 4, batch_size: 3, drop: mix, lr: 0.05}";
        let network = ["resnet18", "layer1.0"];
        let error = learn(network, ["adaround", "lsq"], params, &Runs::Cuda(device), &Silent, &Forget).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("mixed with random weights") && error.contains("use --engine auto"), "{error}");
    }
}

#[test]
fn mixed_values_are_weighted_by_uniform_numbers() {
    let [q, f] = [1, 2].map(|salt| noise(&[2, 3, 4, 5], salt));
    let stream = qdrop_kernels::random::Stream { seed: 7, id: [1, 2, 3] };
    let weights = qdrop_kernels::drop::weights_of_planes(stream, [2, 3, 4, 5]);
    let [q, f] = [q, f].map(|x| Var::from_tensor(&x).unwrap());
    let mixed = ops::drop(q.as_tensor(), f.as_tensor(), &Keep::Mixed { stream }).unwrap();
    let upstream = noise(&[2, 3, 4, 5], 3);
    let gradients = (&mixed * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let [dq, df] = [&q, &f].map(|x| vec(gradients.get(x.as_tensor()).unwrap()));
    let [mixed, q, f, g] = [&mixed, q.as_tensor(), f.as_tensor(), &upstream].map(vec);
    for (i, u) in weights.iter().enumerate() {
        assert!((mixed[i] - (u * q[i] + (1.0 - u) * f[i])).abs() < 1e-6);
        assert!((dq[i] - u * g[i]).abs() < 1e-6 && (df[i] - (1.0 - u) * g[i]).abs() < 1e-6);
    }
}

/// Ranges that are observed from quantized inputs are those that the finished network shows.
#[test]
fn ranges_from_quantized_inputs_are_those_of_the_finished_network() {
    use qdrop_core::cache::{CacheBudget, CachedValues};
    use qdrop_core::pipeline::{plan_sites, reconstruct, Observers, Resources};
    let quant = "{setting: qdrop, weight: {bits: 2, granularity: per_channel, observer: minmax, quantizer: fixed}, \
                 activation: {bits: 4, granularity: per_tensor, observer: minmax, quantizer: fixed}}";
    let mut model = model_with("resnet18", SMALL, ["fixed", "fixed"]);
    let plans = plan_sites(model.graph(), &serde_yaml::from_str(quant).unwrap()).unwrap();
    let float = model.parameters().clone();
    let images = noise(&[8, 3, 32, 32], 9);
    let random = SeededRandom { seed: 7 };
    let resources = Resources {
        images: CachedValues::in_memory(&images).unwrap(),
        cache: CacheBudget::unlimited(),
        random: &random,
        progress: &Silent,
        engine: Engine::Auto,
        merge: &[],
        checkpoints: None,
    };
    let observers = Observers { plans: &plans, registries: registries(), samples: 5 };
    // One step, in which nothing is learned.
    let reconstructor = reconstructor("{iters: 1, batch_size: 4}").unwrap();
    reconstruct(&mut model, &*reconstructor, &resources, Some(&observers)).unwrap();

    let observed = images.narrow(0, 0, 5).unwrap();
    let mut checked = 0;
    for unit in model.graph().units() {
        let before = model.graph().nodes().map(|(id, _)| id).skip(1).filter(|id| id < &unit.nodes()[0]);
        let before = model.graph().subgraph_with_outputs(before, unit.subgraph.inputs().to_vec());
        let image = if before.inputs().is_empty() { vec![] } else { vec![observed.clone()] };
        let inputs = model.run(&before, &image, Precision::Quantized).unwrap();
        let ran = unit.subgraph.run(model.graph(), &inputs, |id, read| {
            let value = qdrop_core::graph::execute(model.graph().node(id), read, &float, Default::default()).unwrap();
            let Some(site) = model.activation_site(id) else { return Ok(value) };
            let values = vec(&value);
            let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), v| (a.min(*v), b.max(*v)));
            let (scale, zero_point) = QParams::of_pair(min, max, site.quantizer.spec());
            let got = site.quantizer.qparams().unwrap();
            assert!((got.scale[0] - scale).abs() < 1e-5 * scale && got.zero_point[0] == zero_point, "{}", site.name);
            checked += 1;
            site.quantizer.fake_quantize(&value)
        });
        ran.unwrap();
    }
    assert!(checked > 10);
}
