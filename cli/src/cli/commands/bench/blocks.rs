//! Benchmarks of single blocks of the published networks (W2A4), with random weights.

use super::branches;
use super::row::{Body, Layer, Row, Shortcut};
use anyhow::Result;
use qdrop_core::engine::UnitSamples;
use qdrop_core::graph::{quantization_sites, Op, SiteKind};
use qdrop_core::model::{QuantModel, QuantSite};
use qdrop_core::pipeline::Registries;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Event, Progress, Silent};
use qdrop_core::random::{RandomSource, SeededRandom};
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// Samples in one step, for images of ImageNet.
const BATCH: usize = 32;
/// Samples in one step of a detector: a pair of pictures.
const PAIR: usize = 2;
/// Number of first iterations that are not counted.
const WARM_UP: usize = 2;

/// A block with everything that its time depends on.
pub struct Block {
    /// Name of the network and of the block in it.
    pub name: &'static str,
    /// Samples in one step. There are twice as many to draw from.
    pub batch: usize,
    channels: usize,
    /// Height and width of the input.
    size: [usize; 2],
    body: Body,
    /// Whether the quantizer of its output has to have negative values; `None` where the output has no quantizer of its own.
    signed: Option<bool>,
    lambda: f64,
}

/// Where blocks are computed.
pub struct On {
    pub device: Device,
    pub tf32: bool,
}

/// The blocks of `torch_block.py`.
pub fn blocks() -> Vec<Block> {
    let layer = |out, kernel, stride, groups| Layer { out, kernel, stride, groups };
    let block = |name, channels, size, body, signed, lambda| Block {
        name,
        batch: BATCH,
        channels,
        size: [size; 2],
        body,
        signed,
        lambda,
    };
    let basic = |name, channels, size, out, stride| {
        let shortcut = if stride == 1 { Shortcut::Identity } else { Shortcut::Projection };
        let layers = vec![layer(out, 3, stride, 1), layer(out, 3, 1, 1)];
        block(name, channels, size, Row { layers, relu6: false, shortcut, final_relu: true }.body(), Some(false), 0.01)
    };
    let bottleneck = |[width, out]: [usize; 2], stride, groups| {
        let layers = vec![layer(width, 1, 1, 1), layer(width, 3, stride, groups), layer(out, 1, 1, 1)];
        let shortcut = if stride == 1 { Shortcut::Identity } else { Shortcut::Projection };
        Row { layers, relu6: false, shortcut, final_relu: true }.body()
    };
    let inverted = |name, channels, size, stride, out| {
        let wide = channels * 6;
        let shortcut = if stride == 1 { Shortcut::Identity } else { Shortcut::None };
        let layers = vec![layer(wide, 1, 1, 1), layer(wide, 3, stride, wide), layer(out, 1, 1, 1)];
        block(name, channels, size, Row { layers, relu6: true, shortcut, final_relu: false }.body(), Some(true), 0.1)
    };
    vec![
        basic("resnet18.layer1.0", 64, 56, 64, 1),
        basic("resnet18.layer2.0", 64, 56, 128, 2),
        basic("resnet18.layer3.0", 128, 28, 256, 2),
        basic("resnet18.layer4.0", 256, 14, 512, 2),
        block("resnet50.layer1.1", 256, 56, bottleneck([64, 256], 1, 1), Some(false), 0.01),
        inverted("mobilenet_v2.features.2", 16, 112, 2, 24),
        inverted("mobilenet_v2.features.16", 160, 7, 1, 160),
        block("regnetx_600m.s3.b2", 240, 14, bottleneck([240, 240], 1, 10), Some(false), 0.01),
        Block {
            batch: PAIR,
            // A picture of 800 x 1088 pixels.
            size: [200, 272],
            ..block("faster_rcnn_r50.layer2.0", 256, 0, bottleneck([128, 512], 2, 1), Some(false), 0.01)
        },
        block("regnety_400m.s3.b2", 208, 14, Box::new(branches::regnety), Some(false), 0.01),
        block("efficientnet_b0.features.4.1", 80, 14, Box::new(branches::mobile), Some(true), 0.1),
        block("squeezenet1_1.features.3", 64, 55, Box::new(branches::fire), None, 0.01),
        block("googlenet.inception3a", 192, 28, Box::new(branches::inception), None, 0.01),
        block("shufflenet_v2_x1_0.stage3.1", 232, 14, Box::new(branches::shuffle), None, 0.1),
    ]
}

impl Block {
    fn graph(&self) -> Result<Graph> {
        let mut b = GraphBuilder::new([self.channels, self.size[0], self.size[1]]);
        let x = b.input();
        let y = b.unit("block", |b| (self.body)(b, x))?;
        Ok(b.finish(y)?)
    }

    /// The block with random weights and plausible grids.
    fn model(&self, registries: &Registries, on: &On) -> Result<QuantModel> {
        let graph = self.graph()?;
        let mut parameters = HashMap::new();
        for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
            let fan_in = shape[1..].iter().product::<usize>().max(1);
            let size = if shape.len() > 1 { (2.0 / fan_in as f64).sqrt() } else { 0.0 };
            parameters.insert(name, (noise(&shape, i as u32)? * size)?.to_device(&on.device)?);
        }
        let weights = QuantSpec::new(2, false, Granularity::PerAxis(0), "bits")?;
        let activations = QuantSpec::new(4, false, Granularity::PerTensor, "bits")?;
        let build = |name: &str, spec: &QuantSpec| -> Result<Box<dyn Quantizer>> {
            Ok(registries.quantizers.get(name, "bench")?.build(spec, &Params::none("bench"))?)
        };
        let mut model = QuantModel::new(graph.clone(), parameters, on.device.clone());
        model.allow_tf32(on.tf32);
        let mut sites: Vec<_> = quantization_sites(&graph).into_iter().map(|s| (s.node, s.kind, s.name)).collect();
        let output = graph.outputs()[0];
        if self.signed.is_some() {
            sites.push((output, SiteKind::Activation, "output".into()));
        }
        for (node, kind, name) in sites {
            if kind == SiteKind::Weight {
                let mut quantizer = build("adaround", &weights)?;
                let rows = model.weight(node)?.flatten_from(1)?;
                let range = Range { min: (rows.min(1)? * 0.6)?.to_vec1()?, max: (rows.max(1)? * 0.6)?.to_vec1()? };
                quantizer.set_range(&range, &on.device)?;
                model.set_weight_quantizer(node, QuantSite { name, quantizer });
            } else {
                let mut quantizer = build("lsq", &activations)?;
                let signed = node == output && self.signed == Some(true);
                let range = if signed { (-2.0, 2.0) } else { (0.0, 4.0) };
                quantizer.set_range(&Range { min: vec![range.0], max: vec![range.1] }, &on.device)?;
                model.set_activation_quantizer(node, QuantSite { name, quantizer });
            }
        }
        Ok(model)
    }

    /// Calls `body` with the unit after it has begun to learn, and its samples.
    fn with_task<R>(
        &self,
        registries: &Registries,
        on: &On,
        body: impl FnOnce(&UnitTask<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut model = self.model(registries, on)?;
        let unit = model.graph().units()[0].clone();
        let [height, width] = self.size;
        let float_input = noise(&[2 * self.batch, self.channels, height, width], 1000)?.to_device(&on.device)?;
        let float_outputs = model.forward(&float_input, qdrop_core::model::Precision::Float)?;
        let quantized_input = ((&float_input * 4.0)?.round()? / 4.0)?;
        let data = UnitData { quantized_inputs: vec![quantized_input], float_inputs: vec![float_input], float_outputs };
        let mut task = UnitTask::new(&mut model, &unit, 0, UnitSamples::in_memory(&data)?)?;
        task.begin(&[groups::ROUNDING, groups::SCALE])?;
        body(&task)
    }

    /// Median milliseconds of a step of the built-in reconstructor; on a GPU, which takes several steps at once, the mean of
    /// eight times as many.
    pub fn step(&self, registries: &Registries, iters: usize, engine: Engine, on: &On) -> Result<f64> {
        let is_cpu = on.device.is_cpu();
        let (iters, warm_up) = if is_cpu { (iters, WARM_UP) } else { (8 * iters, 8 * WARM_UP) };
        // The regularizer is used from the first step on, as in most steps of a run.
        let params = QdropParams {
            iters: iters + warm_up,
            batch_size: self.batch,
            weight: self.lambda,
            warm_up: 0.0,
            ..Default::default()
        };
        let clock = Clock::default();
        let random = SeededRandom { seed: 1 };
        self.with_task(registries, on, |task| {
            let context = Context { random: &random, progress: &clock, interruption: &Forget, engine };
            optimize(task, &params, &context)?;
            Ok(())
        })?;
        let times = clock.0.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?;
        if let (false, [.., last]) = (is_cpu, &times[warm_up..]) {
            return Ok((*last - times[warm_up]).as_secs_f64() * 1e3 / iters as f64);
        }
        Ok(median(times.windows(2).skip(warm_up).map(|w| (w[1] - w[0]).as_secs_f64() * 1e3).collect()))
    }

    /// Milliseconds of the forward and of the backward pass of one step of the fused engine.
    pub fn passes(&self, registries: &Registries, iters: usize, on: &On) -> Result<[f64; 2]> {
        let random = SeededRandom { seed: 1 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: Engine::Fused };
        self.with_task(registries, on, |task| {
            let mut unit = task.engine(self.batch, &context)?;
            let indices: Vec<usize> = (0..self.batch).collect();
            let rates = [(groups::ROUNDING, 1e-3), (groups::SCALE, 4e-5)];
            let regularizer = Regularizer { weight: self.lambda, b: 20.0 };
            let (mut forward, mut backward) = (Vec::new(), Vec::new());
            let mut before = unit.times();
            for step in 0..iters + WARM_UP {
                unit.loss(&indices, &|site| random.keep(0, step, site, 0.5))?;
                unit.update(&rates, Some(regularizer))?;
                let now = unit.times();
                if step >= WARM_UP {
                    forward.push((now.forward - before.forward).as_secs_f64() * 1e3);
                    backward.push((now.backward - before.backward).as_secs_f64() * 1e3);
                }
                before = now;
            }
            Ok([median(forward), median(backward)])
        })
    }

    /// Floating-point operations of the convolutions in one step, as direct convolutions: forward, backward to
    /// the weights, and backward to the inputs except the block's own.
    pub fn operations(&self) -> Result<f64> {
        let graph = self.graph()?;
        let mut sum = 0.0;
        for (_, node) in graph.nodes() {
            let Op::Conv2d { kernel, geometry, .. } = &node.op else { continue };
            let inputs = graph.node(node.inputs[0]).shape[0] / geometry.groups;
            let products = node.shape.iter().product::<usize>() * kernel[0] * kernel[1] * inputs;
            let passes = if node.inputs[0] == graph.input() { 2.0 } else { 3.0 };
            sum += 2.0 * passes * (products * self.batch) as f64;
        }
        Ok(sum)
    }
}

/// Records when each step ends.
#[derive(Default)]
struct Clock(Mutex<Vec<Instant>>);

impl Progress for Clock {
    fn event(&self, event: Event<'_>) {
        if let (Event::Started { .. } | Event::Step { .. }, Ok(mut times)) = (event, self.0.lock()) {
            times.push(Instant::now());
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Uniform noise with a standard deviation of 1.
fn noise(shape: &[usize], salt: u32) -> Result<Tensor> {
    let end = 3_f32.sqrt();
    let values = qdrop_core::kernels::testing::uniform(shape.iter().product(), -end..end, salt.into());
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
