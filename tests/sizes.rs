//! Steps of images of several sizes, and of several batches.

use crate::fused::{agree, model, unit, Learned};
use crate::support::*;
use qdrop_core::cache::{CacheBudget, CacheType, CachedValues};
use qdrop_core::engine::{EngineState, Stepping, UnitSamples};
use qdrop_core::graph::Unit;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::SeededRandom;
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::path::Path;
use std::sync::Arc;

/// A small detector, whose images may have any size.
const DETECTOR: &str = "faster_rcnn_r50_fpn";
const SMALL: &str = "{image_size: [32, 64], width: 16, pyramid: 24}";
/// Images of a group.
const GROUP: usize = 2;
/// Heights and widths of the groups, in units of what the ResNet's stages halve.
const SIZES: [[usize; 2]; 5] = [[2, 3], [3, 2], [1, 2], [4, 5], [2, 3]];

/// Cached values of a unit whose input is so many times smaller than the image, in groups of several sizes.
fn samples(model: &QuantModel, unit: &Unit, stride: usize, budget: &Arc<CacheBudget>) -> UnitSamples {
    let channels = model.graph().node(unit.subgraph.inputs()[0]).shape[0];
    let empty = || CachedValues::new(budget.clone(), Device::Cpu).in_groups(GROUP);
    let [mut quantized, mut float, mut output] = [(); 3].map(|()| empty());
    for (i, [height, width]) in SIZES.into_iter().enumerate() {
        let x = noise(&[GROUP, channels, 32 * height / stride, 32 * width / stride], 500 + i as u32);
        let x = x.affine(1.0, 0.3).unwrap();
        output.push(&model.run(&unit.subgraph, std::slice::from_ref(&x), Precision::Float).unwrap()[0]).unwrap();
        quantized.push(&((&x * 8.0).unwrap().round().unwrap() / 8.0).unwrap()).unwrap();
        float.push(&x).unwrap();
    }
    UnitSamples {
        quantized_inputs: vec![Arc::new(quantized)],
        float_inputs: vec![Arc::new(float)],
        float_outputs: vec![Arc::new(output)],
        passing: Vec::new(),
        ranges: Vec::new(),
    }
}

fn learn((name, stride): (&str, usize), settings: &QdropParams, engine: Engine, budget: &Arc<CacheBudget>) -> Learned {
    let mut model = model(DETECTOR, SMALL, "lsq");
    let unit = unit(&model, name);
    let samples = samples(&model, &unit, stride, budget);
    let mut task = UnitTask::new(&mut model, &unit, 3, samples).unwrap();
    task.begin(&settings.groups()).unwrap();
    let random = SeededRandom { seed: 7 };
    let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine };
    let losses = optimize(&task, settings, &context).unwrap().losses;
    let learned = task.parameters().unwrap().into_iter().map(|(name, p)| (name, vec(p.var.as_tensor()))).collect();
    (losses, learned)
}

#[test]
fn images_of_several_sizes_learn_the_same_on_both_engines() {
    let settings = QdropParams { iters: 16, batch_size: GROUP, weight: 0.1, keep_best: 2, ..Default::default() };
    let memory = CacheBudget::unlimited();
    for unit in [("conv1", 1), ("layer1.0", 4), ("layer2.0", 4), ("layer3.1", 16), ("lateral.1", 8), ("output.0", 4)] {
        for accumulate in [1, 3] {
            let settings = QdropParams { accumulate, ..settings.clone() };
            let [generic, fused] =
                [Engine::Generic, Engine::Fused].map(|engine| learn(unit, &settings, engine, &memory));
            agree(&format!("{} {accumulate}", unit.0), &generic, &fused);
        }
    }
}

#[test]
fn values_in_files_learn_the_same() {
    let settings = QdropParams { iters: 6, batch_size: GROUP, accumulate: 2, warm_up: 0.0, ..Default::default() };
    let folder = tempfile::tempdir().unwrap();
    let limited = |limit| CacheBudget::new(limit, CacheType::F32, Path::new(folder.path()).into());
    let [all, some, none] = [u64::MAX, 200_000, 0].map(|limit| {
        [Engine::Generic, Engine::Fused].map(|engine| learn(("layer2.0", 4), &settings, engine, &limited(limit)))
    });
    assert!(all == some && all == none);
}

#[test]
fn a_batch_is_a_group() {
    let mut model = model(DETECTOR, SMALL, "lsq");
    let unit = unit(&model, "layer2.0");
    let samples = samples(&model, &unit, 4, &CacheBudget::unlimited());
    let mut task = UnitTask::new(&mut model, &unit, 3, samples).unwrap();
    let settings = QdropParams { iters: 2, batch_size: 4, ..Default::default() };
    task.begin(&settings.groups()).unwrap();
    let random = SeededRandom { seed: 7 };
    for engine in [Engine::Generic, Engine::Fused] {
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine };
        let error = optimize(&task, &settings, &context).unwrap_err().to_string();
        assert!(error.contains("a batch is a group of 2 images, but batch_size is 4"), "{error}");
        let mut engine = task.engine(GROUP, &context).unwrap();
        let error = engine.loss(&[1, 2], &|_| ops::Keep::All).unwrap_err().to_string();
        assert!(error.contains("shape"), "samples of two groups: {error}");
    }
}

/// The mean of equal gradients is one of them, bit for bit.
#[test]
fn a_step_uses_the_mean_of_its_batches() {
    for name in ["layer2.0", "lateral.1"] {
        let mut model = model(DETECTOR, SMALL, "lsq_plus");
        let unit = unit(&model, name);
        let stride = if name == "lateral.1" { 8 } else { 4 };
        let samples = samples(&model, &unit, stride, &CacheBudget::unlimited());
        let mut task = UnitTask::new(&mut model, &unit, 3, samples).unwrap();
        let groups = [groups::ROUNDING, groups::SCALE, groups::ZERO_POINT, groups::BIAS];
        task.begin(&groups).unwrap();
        let rates = groups.map(|group| (group, 1e-2));
        let random = SeededRandom { seed: 7 };
        for engine in [Engine::Generic, Engine::Fused] {
            let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine };
            let state = |batches: &[&[usize]]| -> EngineState {
                let stepping = Stepping { passes: batches.len(), ..Stepping::of(GROUP) };
                let mut engine = task.engine_for(stepping, &context).unwrap();
                let before = engine.state().unwrap();
                for (i, batch) in batches.iter().enumerate() {
                    let keep = |site: usize| random_keep(&random, batch[0], site);
                    if i == 0 { engine.loss(batch, &keep) } else { engine.add_loss(batch, &keep) }.unwrap();
                }
                engine.update(&rates, Some(Regularizer { weight: 0.1, b: 8.0 })).unwrap();
                assert!(engine.update(&rates, None).is_err(), "gradients are used once");
                let after = engine.state().unwrap();
                engine.restore(0, &before).unwrap();
                after
            };
            let bits = |state: EngineState| -> Vec<(String, Vec<u32>)> {
                state.iter().map(|(n, x)| (n.clone(), vec(x).iter().map(|v| v.to_bits()).collect())).collect()
            };
            let once = bits(state(&[&[0, 1]]));
            assert!(once == bits(state(&[&[0, 1], &[0, 1]])), "{name} {engine:?}");
            assert!(once != bits(state(&[&[0, 1], &[6, 7]])), "{name} {engine:?}");
        }
    }
}

fn random_keep(random: &SeededRandom, batch: usize, site: usize) -> ops::Keep {
    use qdrop_core::random::RandomSource;
    random.keep(0, batch, site, 0.5)
}
