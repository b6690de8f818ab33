//! Ranges that a few large values do not decide: the exponent of the error, refined ranges, and the loss within a range.

use crate::fused::{model_with, samples, unit};
use crate::support::*;
use qdrop_core::cache::CachedValues;
use qdrop_core::graph::SiteKind;
use qdrop_core::model::QuantSite;
use qdrop_core::ops::Keep;
use qdrop_core::pipeline::{calibrate, plan_sites, Observed};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::SeededRandom;
use qdrop_core::recipe::Recipe;
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::collections::HashMap;
use std::path::Path;

/// Values between 0 and 3, and one in 100 of 24.
fn with_outliers(dims: &[usize]) -> Tensor {
    let mut values = vec(&noise(dims, 5).affine(1.5, 1.5).unwrap());
    values.iter_mut().step_by(100).for_each(|value| *value = 24.0);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn fake_quantize(x: f32, max: f32) -> f32 {
    let scale = max / 15.0;
    (x / scale).round_ties_even().clamp(0.0, 15.0) * scale
}

#[test]
fn the_exponent_says_how_much_few_large_values_widen_the_range() {
    let x = with_outliers(&[2000]);
    let spec = spec(4, false, Granularity::PerTensor);
    let values = vec(&x);
    let range = |observer: &str, p: f32| {
        let params = Params::new("p", serde_yaml::from_str(&format!("{{p: {p}}}")).unwrap());
        let mut observer = registries().observers.get(observer, "test").unwrap().build(&spec, &params).unwrap();
        observer.observe(&x).unwrap();
        observer.range().unwrap().max[0]
    };
    for observer in ["mse", "avg_mse", "mse_fast", "avg_mse_fast"] {
        for p in [0.7, 1.0, 2.4, 4.0] {
            let error = |max: f32| values.iter().map(|x| f64::from((fake_quantize(*x, max) - x).abs()).powf(p)).sum();
            let errors: Vec<f64> = (1..=100).map(|i| error(0.24 * i as f32)).collect();
            let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
            // The fast ones find a local minimum.
            let slack = if observer.contains("fast") { 1.5 } else { 1.0 + 1e-5 };
            let got = error(range(observer, p as f32));
            assert!(got <= slack * least, "{observer}, p = {p}: {got}, but {least} is possible");
        }
        assert!(range(observer, 0.7) < 4.0, "{observer}");
        assert!(range(observer, 4.0) > 12.0, "{observer}");
    }
    let params = Params::new("quant.activation.observer.params", serde_yaml::from_str("{p: 0}").unwrap());
    let error = registries().observers.get("mse", "test").unwrap().build(&spec, &params).err().unwrap().to_string();
    assert_eq!(error, "quant.activation.observer.params.p: lies between 0.1 and 10");
}

/// A linear layer whose large values the next layer's ReLU6 cuts off.
fn cutting_off() -> QuantModel {
    let mut b = GraphBuilder::new([1, 8, 8]);
    let x = b.input();
    let x = b.conv2d("linear", x, Conv2d::new(1, 1)).unwrap();
    let x = b.conv2d("cut", x, Conv2d::new(1, 1)).unwrap();
    let x = b.relu6("cut.relu6", x).unwrap();
    let x = b.conv2d("last", x, Conv2d::new(1, 1)).unwrap();
    let graph = b.finish(x).unwrap();
    let one = |(name, shape): (String, Vec<usize>)| (name, Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
    let parameters: HashMap<String, Tensor> = graph.parameter_shapes().into_iter().map(one).collect();
    QuantModel::new(graph, parameters, Device::Cpu)
}

#[test]
fn refined_ranges_are_those_with_which_the_outputs_change_least() {
    let text = "{name: t, model: {architecture: resnet18}, data: idx, reconstruction: none, quant: {setting: qdrop, \
                weight: {bits: 8, granularity: per_tensor, observer: minmax, quantizer: fixed}, \
                activation: {bits: 4, granularity: per_tensor, observer: minmax, quantizer: fixed}}}";
    let recipe = Recipe::from_yaml(text, Path::new("t.yaml")).unwrap();
    let images = with_outliers(&[16, 1, 8, 8]);
    let max = |images: &Tensor, refine: usize| {
        let mut model = cutting_off();
        let plans = plan_sites(model.graph(), &recipe.quant).unwrap();
        for plan in &plans {
            let site = QuantSite { name: plan.site.name.clone(), quantizer: quantizer("fixed", &plan.spec) };
            match plan.site.kind {
                SiteKind::Weight => model.set_weight_quantizer(plan.site.node, site),
                SiteKind::Activation => model.set_activation_quantizer(plan.site.node, site),
            }
        }
        let cached = CachedValues::in_memory(images).unwrap();
        let observed = Observed { images: &cached, count: cached.samples(), refine };
        calibrate(&mut model, &plans, registries(), observed, &Silent).unwrap();
        let plan = plans.iter().find(|p| p.site.name == "linear" && p.site.kind == SiteKind::Activation).unwrap();
        model.activation_site(plan.site.node).unwrap().quantizer.qparams().unwrap().scale[0] * 15.0
    };
    // The steps of ranges that are up to 5 times as narrow as the widest one here round all other values to 0.
    let far: Vec<f32> = vec(&images).iter().map(|value| if *value == 24.0 { 480.0 } else { *value }).collect();
    let far = Tensor::from_vec(far, images.dims(), &Device::Cpu).unwrap();
    for (images, refine, widest) in [(&images, 4, 24.0), (&images, 16, 24.0), (&images, 100, 24.0), (&far, 16, 480.0)] {
        assert_eq!(max(images, 0), widest);
        let used = vec(&images.narrow(0, 0, refine.min(16)).unwrap());
        let cut = |x: f32| x.clamp(0.0, 6.0);
        let change =
            |max: f32| -> f64 { used.iter().map(|x| f64::from(cut(fake_quantize(*x, max)) - cut(*x)).powi(2)).sum() };
        let (got, ratio) = (max(images, refine), 0.5_f32.powf(0.25));
        assert!(got < 12.0 && change(got) < 0.5 * change(widest), "{got}");
        for neighbour in [got * ratio, got / ratio] {
            assert!(change(got) <= change(neighbour) * (1.0 + 1e-5), "{got}, {neighbour}");
        }
    }
}

#[test]
fn the_loss_compares_values_as_the_grid_represents_them() {
    let params = QdropParams { iters: 10, batch_size: 4, lr: 1e-2, keep_best: 2, ..Default::default() };
    for name in ["features.3", "features.1"] {
        let learn = |engine: Runs, clip: bool| {
            let mut model = model_with("mobilenet_v2", "{image_size: 32}", ["adaround", "lsq"]);
            let unit = unit(&model, name);
            let samples = samples(&model, &unit);
            let mut task = engine.place(UnitTask::new(&mut model, &unit, 3, samples).unwrap());
            if clip {
                task.clip_to_ranges().unwrap();
                // The range from -0.5 to 2.5 has a step of 0.2 and its zero at 2 (2.5 is rounded to even).
                let [low, high] = task.samples.range(0);
                assert!((low + 0.4).abs() < 1e-6 && (high - 2.6).abs() < 1e-6, "{low} {high}");
            }
            task.begin(&params.groups()).unwrap();
            let random = SeededRandom { seed: 7 };
            let context =
                Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
            {
                let mut engine = task.engine(4, &context).unwrap();
                let (batch, [low, high]) = ([0, 1, 2, 3], task.samples.range(0));
                let output = vec(&engine.forward(&batch, &|_| Keep::All).unwrap()[0]);
                let target = &task.targets(&batch).unwrap()[0];
                let square = |(a, b): (&f32, &f32)| f64::from(a.clamp(low, high) - b.clamp(low, high)).powi(2);
                let positions = (target.elem_count() / target.dim(1).unwrap()) as f64;
                let want = output.iter().zip(&vec(target)).map(square).sum::<f64>() / positions;
                let got = engine.loss(&batch, &|_| Keep::All).unwrap();
                assert!((got - want).abs() < 1e-4 * want, "{name}: {got}, {want}");
            }
            let losses = optimize(&task, &params, &context).unwrap().losses;
            let learned = task.parameters().unwrap().into_iter();
            (losses, learned.map(|(name, p)| (name, vec(p.var.as_tensor()))).collect::<Vec<_>>())
        };
        let clipped: Vec<_> = Runs::all().into_iter().map(|engine| learn(engine, true)).collect();
        clipped[1..].iter().for_each(|other| crate::fused::agree(name, &clipped[0], other));
        let plain = learn(Runs::FUSED, false);
        let first = |learned: &crate::fused::Learned| learned.0[0].reconstruction;
        assert!(first(&clipped[0]) < 0.99 * first(&plain), "{name}: nothing was clipped");
    }
}
