//! Time of one reconstruction iteration of single blocks (W2A4, batch 32):
//!
//! ```text
//! cargo run --release -p qdrop-cli --example bench_blocks -- [BLOCK...] [--threads N] [--iters N]
//!     [--engine fused|generic] [--pairs N] [--against "python3 cli/examples/torch_block.py"]
//! ```
//!
//! With `--against`, runs of the other command and of qdrop alternate, and the median ratio of the
//! pairs is printed. For PyTorch, tune its allocator as `torch_block.py` explains.

use anyhow::{bail, Context as _, Result};
use qdrop_core::graph::{quantization_sites, SiteKind};
use qdrop_core::model::{QuantModel, QuantSite};
use qdrop_core::ops::Keep;
use qdrop_core::pipeline::Registries;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Event, Progress};
use qdrop_core::random::SeededRandom;
use qdrop_core::reconstructor::{Forget, UnitData, UnitSamples};
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// Keeps freed memory: the large tensors of a step are allocated again in the next one, and the
/// system's allocator would return their pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLES: usize = 64;
const BATCH: usize = 32;
/// First iterations, which are not counted.
const WARM_UP: usize = 2;

/// One convolution of a block.
struct Layer {
    out: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

/// Where a block's shortcut comes from.
#[derive(PartialEq)]
enum Shortcut {
    None,
    Identity,
    Projection,
}

struct Block {
    name: &'static str,
    channels: usize,
    size: usize,
    layers: Vec<Layer>,
    relu6: bool,
    shortcut: Shortcut,
    final_relu: bool,
    lambda: f64,
}

fn blocks() -> Vec<Block> {
    let layer = |out, kernel, stride, groups| Layer { out, kernel, stride, groups };
    let basic = |name, channels, size, out, stride| Block {
        name,
        channels,
        size,
        layers: vec![layer(out, 3, stride, 1), layer(out, 3, 1, 1)],
        relu6: false,
        shortcut: if stride == 1 { Shortcut::Identity } else { Shortcut::Projection },
        final_relu: true,
        lambda: 0.01,
    };
    let bottleneck = |name, channels, size, width, groups| Block {
        name,
        channels,
        size,
        layers: vec![layer(width, 1, 1, 1), layer(width, 3, 1, groups), layer(channels, 1, 1, 1)],
        relu6: false,
        shortcut: Shortcut::Identity,
        final_relu: true,
        lambda: 0.01,
    };
    let inverted = |name, channels, size, stride, out| Block {
        name,
        channels,
        size,
        layers: vec![layer(channels * 6, 1, 1, 1), layer(channels * 6, 3, stride, channels * 6), layer(out, 1, 1, 1)],
        relu6: true,
        shortcut: if stride == 1 { Shortcut::Identity } else { Shortcut::None },
        final_relu: false,
        lambda: 0.1,
    };
    vec![
        basic("resnet18.layer1.0", 64, 56, 64, 1),
        basic("resnet18.layer2.0", 64, 56, 128, 2),
        basic("resnet18.layer3.0", 128, 28, 256, 2),
        basic("resnet18.layer4.0", 256, 14, 512, 2),
        bottleneck("resnet50.layer1.1", 256, 56, 64, 1),
        inverted("mobilenet_v2.features.2", 16, 112, 2, 24),
        inverted("mobilenet_v2.features.16", 160, 7, 1, 160),
        bottleneck("regnetx_600m.s3.b2", 240, 14, 240, 10),
    ]
}

impl Block {
    fn graph(&self) -> Result<Graph> {
        let mut b = GraphBuilder::new([self.channels, self.size, self.size]);
        let x = b.input();
        let y = b.unit("block", |b| {
            let mut y = x;
            for (i, l) in self.layers.iter().enumerate() {
                let conv = Conv2d::new(l.out, l.kernel).stride(l.stride).padding(l.kernel / 2).groups(l.groups).bias();
                y = b.conv2d(&format!("conv{i}"), y, conv)?;
                if i + 1 < self.layers.len() {
                    let name = format!("act{i}");
                    y = if self.relu6 { b.relu6(&name, y)? } else { b.relu(&name, y)? };
                }
            }
            let out = b.channels(y);
            let shortcut = match self.shortcut {
                Shortcut::None => None,
                Shortcut::Identity => Some(x),
                Shortcut::Projection => Some(b.conv2d("projection", x, Conv2d::new(out, 1).stride(2).bias())?),
            };
            if let Some(shortcut) = shortcut {
                y = b.add("sum", y, shortcut)?;
            }
            if self.final_relu {
                y = b.relu("out", y)?;
            }
            Ok(y)
        })?;
        Ok(b.finish(y)?)
    }

    /// The block with random weights and plausible grids.
    fn model(&self, registries: &Registries) -> Result<QuantModel> {
        let graph = self.graph()?;
        let mut parameters = HashMap::new();
        for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
            let fan_in = shape[1..].iter().product::<usize>().max(1);
            let size = if shape.len() > 1 { (2.0 / fan_in as f64).sqrt() } else { 0.0 };
            parameters.insert(name, (noise(&shape, i as u32)? * size)?);
        }
        let weights = QuantSpec::new(2, false, Granularity::PerAxis(0), "bits")?;
        let activations = QuantSpec::new(4, false, Granularity::PerTensor, "bits")?;
        let build = |name: &str, spec: &QuantSpec| -> Result<Box<dyn Quantizer>> {
            Ok(registries.quantizers.get(name, "bench")?.build(spec, &Params::none("bench"))?)
        };
        let mut model = QuantModel::new(graph.clone(), parameters, Device::Cpu);
        let mut sites: Vec<_> = quantization_sites(&graph).into_iter().map(|s| (s.node, s.kind, s.name)).collect();
        sites.push((graph.output(), SiteKind::Activation, "output".into()));
        for (node, kind, name) in sites {
            if kind == SiteKind::Weight {
                let mut quantizer = build("adaround", &weights)?;
                let rows = model.weight(node)?.flatten_from(1)?;
                let range = Range { min: (rows.min(1)? * 0.6)?.to_vec1()?, max: (rows.max(1)? * 0.6)?.to_vec1()? };
                quantizer.set_range(&range, &Device::Cpu)?;
                model.set_weight_quantizer(node, QuantSite { name, quantizer });
            } else {
                let mut quantizer = build("lsq", &activations)?;
                let signed = node == graph.output() && !self.final_relu;
                let range = if signed { (-2.0, 2.0) } else { (0.0, 4.0) };
                quantizer.set_range(&Range { min: vec![range.0], max: vec![range.1] }, &Device::Cpu)?;
                model.set_activation_quantizer(node, QuantSite { name, quantizer });
            }
        }
        Ok(model)
    }

    /// Median milliseconds of an iteration.
    fn time(&self, registries: &Registries, iters: usize, engine: Engine) -> Result<f64> {
        let mut model = self.model(registries)?;
        let unit = model.graph().units()[0].clone();
        let float_input = noise(&[SAMPLES, self.channels, self.size, self.size], 1000)?;
        let output = model.forward(&float_input, qdrop_core::model::Precision::Float)?;
        let quantized_input = ((&float_input * 4.0)?.round()? / 4.0)?;
        let data = UnitData { quantized_input, float_input, float_output: output };
        let mut task = UnitTask::new(&mut model, &unit, 0, UnitSamples::in_memory(&data)?)?;
        task.begin()?;
        // The regularizer is on from the first step, as during most of a run.
        let params = QdropParams {
            iters: iters + WARM_UP,
            batch_size: BATCH,
            weight: self.lambda,
            warm_up: 0.0,
            ..Default::default()
        };
        let clock = Clock::default();
        let random = SeededRandom { seed: 1 };
        optimize(&task, &params, &Context { random: &random, progress: &clock, interruption: &Forget, engine })?;
        task.forward(&task.samples.float_input.range(0, 1)?, &|_| Keep::All)?;
        let times = clock.0.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(median(times.windows(2).skip(WARM_UP).map(|w| (w[1] - w[0]).as_secs_f64() * 1e3).collect()))
    }
}

/// Notes when each step ends.
#[derive(Default)]
struct Clock(Mutex<Vec<Instant>>);

impl Progress for Clock {
    fn event(&self, event: Event<'_>) {
        if let (Event::Started { .. } | Event::Step { .. }, Ok(mut times)) = (event, self.0.lock()) {
            times.push(Instant::now());
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Roughly normal noise: the sum of four uniform numbers.
fn noise(shape: &[usize], salt: u32) -> Result<Tensor> {
    let stream = qdrop_core::kernels::random::Stream { seed: 7, id: [salt, 0, 0] };
    let n = shape.iter().product::<usize>();
    let value = |i: usize| {
        let sum: f64 = stream.block(i as u32).iter().map(|v| f64::from(*v) / f64::from(u32::MAX)).sum();
        ((sum - 2.0) * 1.732) as f32
    };
    Ok(Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu)?)
}

fn main() -> Result<()> {
    let (mut names, mut against, mut engine) = (Vec::new(), None, Engine::Fused);
    let (mut threads, mut iters, mut pairs) = (2_usize, 10_usize, 5_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} takes a value"));
        match argument.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--iters" => iters = value()?.parse()?,
            "--pairs" => pairs = value()?.parse()?,
            "--against" => against = Some(value()?),
            "--engine" => {
                engine = match value()?.as_str() {
                    "generic" => Engine::Generic,
                    "fused" => Engine::Fused,
                    other => bail!("unknown engine {other}; use generic or fused"),
                }
            }
            option if option.starts_with('-') => bail!("unknown option {option}"),
            name => names.push(name.to_string()),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let registries = Registries::collect()?;
    let all = blocks();
    if let Some(name) = names.iter().find(|n| !all.iter().any(|b| b.name == **n)) {
        let known: Vec<_> = all.iter().map(|b| b.name).collect();
        bail!("unknown block {name}; known: {}", known.join(", "));
    }
    for block in all.iter().filter(|b| names.is_empty() || names.iter().any(|n| n == b.name)) {
        let (mut own, mut other, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if against.is_some() { pairs } else { 1 } {
            let mine = block.time(&registries, iters, engine)?;
            own.push(mine);
            if let Some(command) = &against {
                let theirs = run_other(command, block.name, iters, threads)?;
                other.push(theirs);
                ratios.push(mine / theirs);
            }
        }
        print!("{:26} {:9.2} ms", block.name, median(own));
        if !ratios.is_empty() {
            print!("   other {:9.2} ms   ratio {:.3}", median(other), median(ratios));
        }
        println!();
    }
    Ok(())
}

/// Median milliseconds that the other command reports.
fn run_other(command: &str, block: &str, iters: usize, threads: usize) -> Result<f64> {
    let line = format!("{command} {block} --iters {iters} --threads {threads} --batch {BATCH}");
    let output = std::process::Command::new("sh").args(["-c", &line]).output().context("running the other command")?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading the other command's JSON")?;
    value["median_ms"].as_f64().context("the other command printed no median_ms")
}
