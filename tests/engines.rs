//! What engines offer to reconstructors, both the fused and the generic one: other losses, learned scales of weights,
//! learned biases, and resuming.

use crate::cosine::{Cosine, CosineParams};
use crate::fused::{agree, model, model_with, run, run_with, samples, unit, Learned};
use crate::support::*;
use qdrop_core::engine::{Step, StepPass, Stepping, UnitSamples};
use qdrop_core::model::QuantModel;
use qdrop_core::ops::Keep;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::{RandomSource, SeededRandom};
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use serde::Deserialize;
use std::collections::BTreeMap;

const SMALL: &str = "{image_size: 32}";

#[test]
fn a_loss_of_a_plugin_learns_the_same_on_both_engines() {
    // Shortcuts of all kinds.
    for (network, name) in [("resnet18", "layer2.0"), ("resnet18", "layer1.1"), ("mobilenet_v2", "features.3")] {
        let learned = Runs::all().into_iter().map(|engine| {
            let mut model = model(network, SMALL, "lsq");
            let unit = unit(&model, name);
            let samples = samples(&model, &unit);
            let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
            let random = SeededRandom { seed: 7 };
            let context =
                Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
            let cosine = Cosine(CosineParams { iters: 20, batch_size: 6, lr: 0.01, drop_prob: 0.5 });
            let report = cosine.reconstruct(&mut task, &context).unwrap();
            drop(task);
            let weights = model.weight_sites().filter(|(id, _)| unit.subgraph.contains(*id));
            let weights = weights.map(|(id, site)| (site.name.clone(), vec(model.weight(id).unwrap()))).collect();
            (report.losses, weights)
        });
        let learned: Vec<Learned> = learned.collect();
        for other in &learned[1..] {
            assert!(other.0.last().unwrap().reconstruction < other.0[0].reconstruction, "{name}: {:?}", other.0);
            agree(name, &learned[0], other);
        }
    }
}

/// Calls `body` with a unit of MobileNetV2 that learns roundings, scales and zero points.
fn with_task<R>(engine: &Runs, size: &str, body: impl FnOnce(&UnitTask<'_>, &Context<'_>) -> R) -> R {
    let mut model = model("mobilenet_v2", size, "lsq_plus");
    let unit = unit(&model, "features.3");
    let samples = samples(&model, &unit);
    let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples).unwrap());
    task.begin(&[groups::ROUNDING, groups::SCALE, groups::ZERO_POINT]).unwrap();
    let random = SeededRandom { seed: 7 };
    let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
    body(&task, &context)
}

#[test]
fn a_gradient_of_the_built_in_loss_gives_what_the_built_in_loss_gives() {
    let chosen = Runs::all().into_iter().map(|engine| (engine, false));
    // The engine of a GPU mixes nothing.
    for (engine, mixed) in chosen.chain([(Runs::GENERIC, true), (Runs::FUSED, true)]) {
        let states = [false, true].map(|own| {
            // The CPU's engine takes a batch of large images in several chunks.
            let size = if mixed { "{image_size: 128}" } else { SMALL };
            with_task(&engine, size, |task, context| {
                let random = context.random;
                let mut unit = task.engine_for(Stepping { mixing: mixed, ..Stepping::of(6) }, context).unwrap();
                let rates = [(groups::ROUNDING, 0.01), (groups::SCALE, 1e-3), (groups::ZERO_POINT, 1e-3)];
                for step in 0..3 {
                    let batch = random.batch(0, step, 6, task.sample_count());
                    let keep = |site| if mixed { random.mixed(0, step, site) } else { random.keep(0, step, site, 0.5) };
                    if own {
                        let output = unit.forward(&batch, &keep).unwrap().remove(0);
                        let target = task.targets(&batch).unwrap().remove(0);
                        let positions = (output.elem_count() / output.dim(1).unwrap()) as f64;
                        unit.backward(&[((output - target).unwrap() * (2.0 / positions)).unwrap()]).unwrap();
                    } else {
                        unit.loss(&batch, &keep).unwrap();
                    }
                    unit.update(&rates, None).unwrap();
                }
                unit.state().unwrap()
            })
        });
        assert!(states[0].keys().eq(states[1].keys()));
        for (name, want) in &states[0] {
            let (got, want) = (vec(&states[1][name]), vec(want));
            let apart = got.iter().zip(&want).filter(|(g, w)| (*g - *w).abs() > 1e-3 * w.abs().max(1e-3)).count();
            assert!(apart * 100 <= got.len(), "{engine:?} {mixed} {name}: {apart} of {} differ", got.len());
        }
    }
}

/// Parameters that also make scales of weights and biases learned (Genie-M).
fn genie() -> QdropParams {
    let rates = BTreeMap::from([(groups::WEIGHT_SCALE.into(), 1e-3), (groups::BIAS.into(), 2e-3)]);
    QdropParams { iters: 16, batch_size: 6, weight: 0.1, rates, ..Default::default() }
}

#[test]
fn scales_of_weights_and_biases_learn_the_same_on_both_engines() {
    let params = genie();
    let learn = |network: &str, name: &str, quantizers: [&str; 2]| {
        // The emulation of the largest one takes long.
        let runs = if name == "layer2.0" { vec![Runs::GENERIC, Runs::FUSED] } else { Runs::all() };
        let learned = runs.into_iter().map(|engine| {
            let mut model = model_with(network, SMALL, quantizers);
            let unit = unit(&model, name);
            let before: BTreeMap<String, Vec<f32>> =
                model.parameters().iter().map(|(name, x)| (name.clone(), vec(x))).collect();
            let learned = run_with(&mut model, &unit, engine, &params.groups(), |task, context| {
                optimize(task, &params, context).map(|report| report.losses)
            });
            for (parameter, values) in &learned.1 {
                if parameter.ends_with(".bias") {
                    assert!(before[parameter] != *values, "{parameter} was not learned");
                }
            }
            learned
        });
        let learned: Vec<Learned> = learned.collect();
        learned[1..].iter().for_each(|other| agree(&format!("{network} {name}"), &learned[0], other));
        let names = |end: &str| learned[0].1.iter().filter(|(name, _)| name.ends_with(end)).count();
        (names(".weight.scale"), names(".bias"))
    };
    let learned_scale = "adaround {learn_scale: true}";
    // Winograd, direct convolutions and a projection; depthwise; a fully connected layer.
    assert_eq!(learn("resnet18", "layer2.0", [learned_scale, "lsq"]), (3, 3));
    assert_eq!(learn("mobilenet_v2", "features.3", [learned_scale, "lsq"]), (3, 3));
    assert_eq!(learn("resnet18", "fc", [learned_scale, "lsq"]), (1, 1));
    // Passes with hard roundings.
    let hard = "adaround {learn_scale: true, straight_through: true}";
    assert_eq!(learn("mobilenet_v2", "features.3", [hard, "lsq"]), (3, 3));
    assert_eq!(learn("resnet18", "fc", ["adaround {straight_through: true}", "lsq"]), (0, 1));
    // Only biases, also of layers whose weights are not learned.
    assert_eq!(learn("mobilenet_v2", "features.3", ["fixed", "lsq"]), (0, 3));
}

#[test]
fn rates_of_scales_of_weights_and_of_biases_are_relative() {
    for engine in Runs::all() {
        let mut model = model_with("mobilenet_v2", SMALL, ["adaround {learn_scale: true}", "lsq"]);
        let unit = unit(&model, "features.3");
        let samples = samples(&model, &unit);
        let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
        let rates =
            [(groups::ROUNDING, 0.0), (groups::SCALE, 1e-3), (groups::WEIGHT_SCALE, 0.01), (groups::BIAS, 0.02)];
        task.begin(&rates.map(|(group, _)| group)).unwrap();
        let values = |task: &UnitTask| -> BTreeMap<String, Vec<f32>> {
            task.parameters().unwrap().into_iter().map(|(name, p)| (name, vec(p.var.as_tensor()))).collect()
        };
        let before = values(&task);
        let random = SeededRandom { seed: 7 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
        let mut steps = task.engine(6, &context).unwrap();
        steps.loss(&random.batch(0, 0, 6, task.sample_count()), &|site| random.keep(0, 0, site, 0.5)).unwrap();
        steps.update(&rates, None).unwrap();
        steps.finish().unwrap();
        drop(steps);
        // Adam's first step moves each element by its rate, one way or the other; where the gradient is as small as epsilon, by
        // less.
        let (mut moved, mut whole) = (0, 0);
        for (name, after) in values(&task) {
            let sizes: Vec<f32> = match name.rsplit_once('.').unwrap() {
                (site, "scale") if site.ends_with("weight") => before[&name].iter().map(|scale| 0.01 * scale).collect(),
                (_, "scale") => vec![1e-3],
                (layer, "bias") => {
                    let weight = task.model().parameter(&format!("{layer}.weight")).unwrap();
                    let rows = weight.abs().unwrap().flatten_from(1).unwrap().max(1).unwrap();
                    vec(&rows).iter().map(|largest| 0.02 * largest).collect()
                }
                _ => continue,
            };
            for ((after, before), size) in after.iter().zip(&before[&name]).zip(&sizes) {
                let change = (after - before).abs();
                // Numbers near the value have a distance of 6e-8 of it.
                let tolerance = 1e-3 * size + 1e-7 * before.abs();
                assert!(change <= size + tolerance, "{engine:?} {name}: {change}, not {size}");
                moved += usize::from(change > 0.0);
                whole += usize::from(change >= size - tolerance);
            }
        }
        assert!(moved > 300 && whole * 10 > moved * 9, "{moved} elements moved, {whole} by their rates");
    }
}

#[test]
fn hard_weights_lie_on_the_grid_of_the_learned_scale_and_biases_stay() {
    for engine in Runs::all() {
        let params = genie();
        let mut model = model_with("mobilenet_v2", SMALL, ["adaround {learn_scale: true}", "lsq"]);
        let unit = unit(&model, "features.3");
        let before = model.site_scales(&unit);
        let samples = samples(&model, &unit);
        let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
        task.begin(&params.groups()).unwrap();
        let random = SeededRandom { seed: 7 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
        optimize(&task, &params, &context).unwrap();
        let biases: Vec<_> =
            task.parameters().unwrap().into_iter().filter(|(name, _)| name.ends_with(".bias")).collect();
        task.finish().unwrap();
        drop(task);
        assert!(before != model.site_scales(&unit), "no scale was learned");
        for (name, bias) in biases {
            assert_eq!(vec(model.parameter(&name).unwrap()), vec(bias.var.as_tensor()), "{name}");
        }
        for (node, site) in model.weight_sites().filter(|(id, _)| unit.subgraph.contains(*id)) {
            let weight = model.weight(node).unwrap();
            let again = site.quantizer.fake_quantize(weight).unwrap();
            assert!(worst(&vec(&again), &vec(weight), 1e-6) < 1e-5, "{}", site.name);
        }
    }
}

trait Scales {
    fn site_scales(&self, unit: &qdrop_core::graph::Unit) -> Vec<Vec<f32>>;
}

impl Scales for QuantModel {
    fn site_scales(&self, unit: &qdrop_core::graph::Unit) -> Vec<Vec<f32>> {
        let sites = self.weight_sites().filter(|(id, _)| unit.subgraph.contains(*id));
        sites.map(|(_, site)| site.quantizer.qparams().unwrap().scale).collect()
    }
}

#[test]
fn a_kept_state_goes_on_bit_for_bit() {
    for engine in Runs::all() {
        let ends = [0, 3].map(|stop| {
            let mut model = model_with("resnet18", SMALL, ["adaround {learn_scale: true}", "lsq_plus"]);
            let unit = unit(&model, "layer2.0");
            let samples = samples(&model, &unit);
            let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples).unwrap());
            let rates = [groups::ROUNDING, groups::SCALE, groups::ZERO_POINT, groups::WEIGHT_SCALE, groups::BIAS];
            task.begin(&rates).unwrap();
            let rates = rates.map(|group| (group, 1e-3));
            let random = SeededRandom { seed: 7 };
            let context =
                Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
            let mut unit = task.engine(6, &context).unwrap();
            for step in 0..6 {
                if stop > 0 && step == stop {
                    let state = unit.state().unwrap().into_iter().map(|(name, x)| (name, x.copy().unwrap())).collect();
                    unit = task.engine(6, &context).unwrap();
                    unit.restore(stop, &state).unwrap();
                }
                unit.loss(&random.batch(0, step, 6, 8), &|site| random.keep(0, step, site, 0.5)).unwrap();
                unit.update(&rates, Some(Regularizer { weight: 0.1, b: 10.0 })).unwrap();
            }
            unit.state().unwrap().into_iter().map(|(name, x)| (name, vec(&x))).collect::<BTreeMap<_, _>>()
        });
        assert!(ends[0] == ends[1], "{engine:?}");
    }
}

#[test]
fn misuse_of_an_engine_is_named() {
    for engine in Runs::all() {
        let mut model = model("resnet18", SMALL, "lsq");
        let unit = unit(&model, "layer1.0");
        let samples = samples(&model, &unit);
        let mut fewer = samples.clone();
        fewer.float_inputs = UnitSamples::in_memory(&UnitData::single(
            noise(&[3, 64, 8, 8], 1),
            noise(&[3, 64, 8, 8], 2),
            noise(&[3, 64, 8, 8], 3),
        ))
        .unwrap()
        .float_inputs;
        let error = UnitTask::new(&mut model, &unit, 0, fewer).err().unwrap().to_string();
        assert!(error.contains("cached for different numbers of samples: [8, 3, 8]"), "{error}");
        let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, samples).unwrap());
        let error = task.begin(&[groups::ROUNDING]).unwrap_err().to_string();
        assert!(
            error.contains("'layer1.0': its parameter 'layer1.0.conv1.activation.scale' is of the group 'scale'"),
            "{error}"
        );
        assert!(error.contains("it has rates for rounding"), "{error}");
        task.begin(&[groups::ROUNDING, groups::SCALE]).unwrap();
        let random = SeededRandom { seed: 7 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
        let mut unit = task.engine(4, &context).unwrap();
        let (keep, rates) = (|_| Keep::All, [(groups::ROUNDING, 1e-3), (groups::SCALE, 1e-3)]);
        let error = |result: Result<f64>| result.unwrap_err().to_string();
        assert!(error(unit.loss(&[0, 1, 2], &keep))
            .contains("a step of 3 samples, but the engine was made for batches of 4"));
        assert!(error(unit.update(&rates, None)).contains("an update without gradients"));
        let gradient = noise(&[4, 64, 8, 8], 1);
        let nothing = unit.backward(std::slice::from_ref(&gradient)).unwrap_err().to_string();
        assert!(nothing.contains("there is no forward pass to compute gradients of"), "{nothing}");
        let output = unit.forward(&[0, 1, 2, 3], &keep).unwrap().remove(0);
        let wrong = unit.backward(&[output.narrow(1, 0, 2).unwrap()]).unwrap_err().to_string();
        assert!(wrong.contains("a gradient of the shape [4, 2, "), "{wrong}");
        unit.loss(&[0, 1, 2, 3], &keep).unwrap();
        assert!(error(unit.update(&rates[..1], None)).contains("the parameters' group 'scale' has no learning rate"));
        let missing = unit.restore(1, &BTreeMap::new()).unwrap_err().to_string();
        assert!(missing.contains("the saved state has no 'layer1.0.conv"), "{missing}");
    }
}

/// A block of MobileNetV2 with clips, which also has one at its end, and a classifier whose features are clipped.
struct Clipped;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClippedParams {
    channels: usize,
    expanded: usize,
    shortcut: String,
}

impl Default for ClippedParams {
    fn default() -> Self {
        Self { channels: 5, expanded: 17, shortcut: "none".into() }
    }
}

impl Architecture for Clipped {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: ClippedParams = params.parse()?;
        let mut b = GraphBuilder::new([p.channels, 9, 7]);
        let x = b.input();
        let block = b.unit("block", |b| {
            let y = b.conv2d("expand", x, Conv2d::new(p.expanded, 1).bias())?;
            let y = b.clip("expand.clip", y)?;
            let y = b.conv2d("depthwise", y, Conv2d::new(p.expanded, 3).padding(1).groups(p.expanded).bias())?;
            let y = b.clip("depthwise.clip", y)?;
            let mut y = b.conv2d("project", y, Conv2d::new(p.channels, 1).bias())?;
            let shortcut = match p.shortcut.as_str() {
                "identity" => Some(x),
                "projection" => Some(b.conv2d("shortcut", x, Conv2d::new(p.channels, 1).bias())?),
                _ => None,
            };
            if let Some(shortcut) = shortcut {
                y = b.add("sum", y, shortcut)?;
            }
            b.clip("end.clip", y)
        })?;
        let mean = b.global_average_pool("mean", block)?;
        let flat = b.flatten("flat", mean)?;
        let features = b.unit("features", |b| {
            let y = b.linear("features", flat, 33)?;
            b.clip("features.clip", y)
        })?;
        let logits = b.unit("fc", |b| b.linear("fc", features, 4))?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "clipped", aliases: [], summary: "a linear bottleneck with a bound for each channel",
    build: || Box::new(Clipped)
}

#[test]
fn clips_learn_the_same_on_all_engines() {
    let settings = QdropParams { iters: 12, batch_size: 6, weight: 0.1, ..Default::default() };
    for (params, name) in [
        ("{channels: 5, expanded: 17}", "block"),
        ("{channels: 5, expanded: 17, shortcut: identity}", "block"),
        ("{channels: 17, expanded: 5, shortcut: projection}", "block"),
        ("{channels: 24, expanded: 144, shortcut: identity}", "block"),
        ("{channels: 17, expanded: 40}", "features"),
    ] {
        let learn = |engine: Runs, wider: f64| {
            let mut model = model("clipped", params, "lsq");
            let unit = unit(&model, name);
            for id in unit.nodes() {
                let bound = format!("{}.bound", model.graph().node(*id).name);
                if let Some(value) = model.parameters().get(&bound) {
                    let value = (value * wider).unwrap();
                    model.set_parameter(&bound, value).unwrap();
                }
            }
            run(&mut model, &unit, &settings, engine)
        };
        let what = format!("{params} {name}");
        let generic = learn(Runs::GENERIC, 1.0);
        for engine in &Runs::all()[1..] {
            agree(&what, &generic, &learn(engine.clone(), 1.0));
        }
        // Values do reach their bounds.
        let [own, wide] = [&generic, &learn(Runs::GENERIC, 100.0)].map(|learned| learned.0[0].reconstruction);
        assert!((own - wide).abs() > 0.01 * own, "{what}: {own} {wide}");
    }
}

#[test]
fn a_bound_that_is_not_positive_is_named_by_all_engines() {
    for engine in Runs::all() {
        let mut model = model("clipped", "{}", "lsq");
        let unit = unit(&model, "block");
        let cached = samples(&model, &unit);
        let mut bounds = vec(model.parameter("depthwise.clip.bound").unwrap());
        bounds[3] = 0.0;
        model.set_parameter("depthwise.clip.bound", Tensor::new(bounds, &Device::Cpu).unwrap()).unwrap();
        let mut task = engine.place(UnitTask::new(&mut model, &unit, 0, cached).unwrap());
        task.begin(&[groups::ROUNDING, groups::SCALE]).unwrap();
        let random = SeededRandom { seed: 7 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
        let step = || task.engine(4, &context)?.loss(&[0, 1, 2, 3], &|_| Keep::All);
        let message = step().unwrap_err().to_string();
        assert!(message.contains("depthwise.clip"), "{message}");
        assert!(message.contains("positive numbers, but that of channel 3 is 0"), "{message}");
    }
}

/// A device records the launches of a step and reads losses later; drop and a regularizer come and go.
#[test]
fn several_steps_at_once_are_the_same_steps() {
    for engine in Runs::all() {
        let run = |together: bool| {
            with_task(&engine, SMALL, |task, context| {
                let random = context.random;
                let mut unit = task.engine(3, context).unwrap();
                let samples: Vec<Vec<usize>> =
                    (0..11).map(|step| (0..3).map(|i| (step + 2 * i) % 8).collect()).collect();
                let keep = |step: usize, site: usize| match step {
                    5 => Keep::All,
                    _ => random.keep(0, step, site, 0.5),
                };
                let rates = |step: usize| {
                    let rate = 0.01 / (step + 1) as f64;
                    [(groups::ROUNDING, rate), (groups::SCALE, 1e-4), (groups::ZERO_POINT, 1e-4)]
                };
                let regularizer =
                    |step: usize| (step > 3).then_some(Regularizer { weight: 0.1, b: 20.0 - step as f64 });
                let losses: Vec<[f64; 2]> = if together {
                    let keeps: Vec<_> = (0..11).map(|step| move |site| keep(step, site)).collect();
                    let rates: Vec<_> = (0..11).map(rates).collect();
                    let passes: Vec<_> =
                        (0..11).map(|i| [StepPass { samples: &samples[i], keep: &keeps[i] }]).collect();
                    let steps =
                        (0..11).map(|i| Step { passes: &passes[i], rates: &rates[i], regularizer: regularizer(i) });
                    unit.steps(&steps.collect::<Vec<_>>()).unwrap()
                } else {
                    let step = |i: usize| {
                        let loss = unit.loss(&samples[i], &|site| keep(i, site)).unwrap();
                        [loss, unit.update(&rates(i), regularizer(i)).unwrap()]
                    };
                    (0..11).map(step).collect()
                };
                let state = unit.state().unwrap();
                let state: BTreeMap<String, Vec<f32>> = state.iter().map(|(name, x)| (name.clone(), vec(x))).collect();
                // There are no gradients of a step that is over.
                assert!(unit.update(&rates(0), None).is_err());
                (losses, state)
            })
        };
        let [one_by_one, together] = [false, true].map(run);
        assert!(
            one_by_one.0.iter().all(|[loss, _]| *loss > 0.0) && one_by_one.0[3][1] == 0.0 && one_by_one.0[4][1] > 0.0
        );
        assert!(one_by_one == together, "{engine:?}: {:?} {:?}", one_by_one.0, together.0);
    }
}
