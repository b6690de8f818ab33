//! Whole block reconstructions of the reference implementation, replayed with its batches and
//! drop masks.

use crate::support::*;
use qdrop_core::engine::UnitSamples;
use qdrop_core::graph::{quantization_sites, SiteKind};
use qdrop_core::model::{QuantModel, QuantSite};
use qdrop_core::ops::Keep;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::RandomSource;
use qdrop_core::reconstructor::Forget;
use qdrop_emulation::Emulation;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::collections::HashMap;
use std::sync::Arc;

const TOLERANCE: f32 = 1e-3;

/// Returns the random numbers that the reference drew.
struct Replay {
    batches: Vec<Vec<i64>>,
    masks: HashMap<(usize, usize), Tensor>,
}

impl RandomSource for Replay {
    fn batch(&self, _unit: usize, step: usize, size: usize, _samples: usize) -> Vec<usize> {
        assert_eq!(size, self.batches[step].len());
        self.batches[step].iter().map(|i| *i as usize).collect()
    }

    fn permutation(&self, _unit: usize, _epoch: usize, _samples: usize) -> Vec<usize> {
        panic!("the reference draws its batches")
    }

    fn mixed(&self, _unit: usize, _step: usize, _site: usize) -> Keep {
        panic!("the reference mixes nothing")
    }

    fn keep(&self, _unit: usize, step: usize, site: usize, probability: f32) -> Keep {
        match self.masks.get(&(step, site)) {
            Some(mask) => Keep::Mask(mask.clone()),
            None => {
                assert_eq!(probability, 1.0, "no mask for step {step}, site {site}");
                Keep::All
            }
        }
    }
}

/// The basic block of ResNet with downsampling, from 4 to 6 channels.
fn basic_block() -> Result<Graph> {
    let mut b = GraphBuilder::new([4, 8, 8]);
    let x = b.input();
    let y = b.unit("block", |b| {
        let shortcut = b.conv2d("downsample", x, Conv2d::new(6, 1).stride(2).bias())?;
        let y = b.conv2d("conv1_relu", x, Conv2d::new(6, 3).stride(2).padding(1).bias())?;
        let y = b.relu("relu1", y)?;
        let y = b.conv2d("conv2", y, Conv2d::new(6, 3).padding(1).bias())?;
        let y = b.add("block", y, shortcut)?;
        b.relu("relu", y)
    })?;
    b.finish(y)
}

/// The inverted residual of MobileNetV2 with 4 channels and expansion 3.
fn inverted_residual() -> Result<Graph> {
    let mut b = GraphBuilder::new([4, 8, 8]);
    let x = b.input();
    let y = b.unit("block", |b| {
        let y = b.conv2d("conv.0", x, Conv2d::new(12, 1).bias())?;
        let y = b.relu6("relu0", y)?;
        let y = b.conv2d("conv.1", y, Conv2d::new(12, 3).padding(1).groups(12).bias())?;
        let y = b.relu6("relu1", y)?;
        let y = b.conv2d("conv.2", y, Conv2d::new(4, 1).bias())?;
        b.add("block", y, x)
    })?;
    b.finish(y)
}

/// The name of a site's activation quantizer in the golden file.
fn activation_key(site: &str) -> String {
    match site {
        "block" => "block_post_act_fake_quantize".into(),
        layer => format!("{layer}.layer_post_act_fake_quantize"),
    }
}

fn replay(file: &str, variant: &str, graph: Graph, params: &QdropParams, device: &Device, engine: &Runs) {
    let golden = golden(file);
    let get = |key: &str| golden.get(&format!("{variant}.{key}")).unwrap_or_else(|| panic!("{variant}.{key}")).clone();
    let on_device = |key: &str| get(key).to_device(device).unwrap();
    let mut parameters = HashMap::new();
    for (name, _) in graph.parameter_shapes() {
        let (node, own) = name.rsplit_once('.').unwrap();
        parameters.insert(name.clone(), on_device(&format!("init.{node}.module.{own}")));
    }
    // Here the block's output is quantized, because it is not the output of a whole network.
    let last = graph.outputs()[0];
    let mut model = QuantModel::new(graph.clone(), parameters, device.clone());
    let place = |quantizer_name: &str, spec: QuantSpec, key: &str, name: &str| {
        let mut quantizer = quantizer(quantizer_name, &spec);
        let qparams = QParams {
            scale: vec(&get(&format!("calib.{key}.scale"))),
            zero_point: vec(&get(&format!("calib.{key}.zero_point"))),
        };
        quantizer.set_qparams(&qparams, device).unwrap();
        QuantSite { name: name.into(), quantizer }
    };
    for site in quantization_sites(&graph) {
        if site.kind == SiteKind::Weight {
            let key = format!("{}.module.weight_fake_quant", site.name);
            let placed = place("adaround", spec(2, false, Granularity::PerAxis(0)), &key, &site.name);
            model.set_weight_quantizer(site.node, placed);
        } else {
            let placed = place("lsq", spec(4, false, Granularity::PerTensor), &activation_key(&site.name), &site.name);
            model.set_activation_quantizer(site.node, placed);
        }
    }
    let placed = place("lsq", spec(4, false, Granularity::PerTensor), &activation_key("block"), "block");
    model.set_activation_quantizer(last, placed);

    let mut masks = HashMap::new();
    for (key, mask) in &golden {
        if let Some(rest) = key.strip_prefix(&format!("{variant}.it")) {
            let (step, site) = rest.split_once(".keep").unwrap();
            masks.insert((step.parse().unwrap(), site.parse().unwrap()), mask.clone());
        }
    }
    let random = Replay { batches: get("batch_index").to_vec2().unwrap(), masks };
    let data = UnitData::single(on_device("inp_quant"), on_device("inp_fp"), on_device("out_fp"));
    let unit = graph.units()[0].clone();
    let inputs = data.quantized_inputs.clone();
    let task = UnitTask::new(&mut model, &unit, 0, UnitSamples::in_memory(&data).unwrap()).unwrap();
    let mut task = engine.place(task);
    task.begin(&params.groups()).unwrap();
    let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: engine.engine() };
    let losses = optimize(&task, params, &context).unwrap().losses;

    let want = get("losses").to_vec2::<f32>().unwrap();
    assert_eq!(losses.len(), want.len());
    for (step, (got, want)) in losses.iter().zip(&want).enumerate() {
        let got = [got.reconstruction as f32, got.rounding as f32, got.b as f32];
        assert!(worst(&got, want, 1e-6) < TOLERANCE, "{file} {variant} step {step}: {got:?}, want {want:?}");
    }
    for (name, parameter) in task.parameters().unwrap() {
        let key = match name.strip_suffix(".weight.alpha") {
            Some(layer) => format!("final.{layer}.module.weight_fake_quant.alpha"),
            None => format!("final.{}.scale", activation_key(name.strip_suffix(".activation.scale").unwrap())),
        };
        let error = worst(&vec(parameter.var.as_tensor()), &vec(&get(&key)), 1e-1);
        assert!(error < TOLERANCE, "{file} {variant} {key}: relative difference {error}");
    }
    task.finish().unwrap();
    let output = task.forward(&inputs, &|_| Keep::All).unwrap().remove(0);
    drop(task);
    for (name, weight) in model.parameters() {
        if let Some(layer) = name.strip_suffix(".weight") {
            let want = get(&format!("final.{layer}.module.weight.hard"));
            assert!(worst(&vec(weight), &vec(&want), 1e-3) < 1e-4, "{file} {variant} {name}");
        }
    }
    // A value next to a rounding tie may be rounded to the neighbouring integer; all others agree.
    let want = get("final.out_quant");
    let (got, want) = (vec(&output), vec(&want));
    let scale = vec(&get("final.block_post_act_fake_quantize.scale"))[0];
    let apart = got.iter().zip(&want).filter(|(g, w)| (*g - *w).abs() > TOLERANCE * w.abs().max(scale)).count();
    assert!(apart * 1000 <= got.len(), "{file} {variant}: {apart} of {} outputs differ", got.len());
}

#[test]
fn blocks_are_reconstructed_as_by_the_reference() {
    for device in devices() {
        for (variant, drop_prob) in [("nodrop", 1.0), ("drop", 0.5)] {
            let params = QdropParams { iters: 40, batch_size: 4, drop_prob, ..Default::default() };
            let inverted = QdropParams { weight: 0.1, ..params.clone() };
            let mut engines = vec![Runs::GENERIC, Runs::FUSED];
            if device.is_cpu() {
                // The CUDA engine without a GPU, in both orders of blocks and threads.
                let emulations = [false, true].map(|backwards| Emulation { backwards, ..Emulation::default() });
                engines.extend(emulations.map(|emulation| Runs::Cuda(Arc::new(emulation))));
            }
            for engine in &engines {
                replay("recon_basic.safetensors", variant, basic_block().unwrap(), &params, &device, engine);
                replay("recon_inverted.safetensors", variant, inverted_residual().unwrap(), &inverted, &device, engine);
            }
        }
    }
}
