//! Units that are no row of layers: the fused engine computes what the generic engine computes for the blocks of networks with
//! gates, branches, pools, slices and shuffles, and for odd graphs.

use crate::fused::{agree, model_with, run, run_with, unit, Learned};
use crate::support::*;
use qdrop_core::graph::Graph;
use qdrop_core::ops::Activation;
use qdrop_core::prelude::*;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use serde::Deserialize;

/// A network with one block of each kind.
struct Kinds;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KindsParams {
    kind: String,
    channels: usize,
    size: usize,
}

impl Default for KindsParams {
    fn default() -> Self {
        Self { kind: "gate".into(), channels: 12, size: 10 }
    }
}

/// The kinds of blocks.
pub const KINDS: [&str; 12] = [
    "gate",
    "hard_gate",
    "fire",
    "inception",
    "shuffle",
    "shuffle_down",
    "dense",
    "layer_norm",
    "odd",
    "pooled",
    "two_sums",
    "early",
];

/// A convolution with an activation function.
fn layer(b: &mut GraphBuilder, name: &str, x: NodeId, conv: Conv2d, activation: Activation) -> Result<NodeId> {
    let y = b.conv2d(name, x, conv.bias())?;
    b.activation(&format!("{name}.act"), y, activation)
}

/// Squeeze-and-excitation (arXiv 1709.01507).
fn gate(b: &mut GraphBuilder, x: NodeId, squeezed: usize, functions: [Activation; 2]) -> Result<NodeId> {
    let channels = b.channels(x);
    let s = b.global_average_pool("se.mean", x)?;
    let s = layer(b, "se.squeeze", s, Conv2d::new(squeezed, 1), functions[0])?;
    let s = layer(b, "se.excite", s, Conv2d::new(channels, 1), functions[1])?;
    b.mul("se.gate", x, s)
}

fn block(b: &mut GraphBuilder, kind: &str, x: NodeId) -> Result<NodeId> {
    use Activation::{HardSigmoid, HardSwish, Relu, Sigmoid, Silu};
    let c = b.channels(x);
    match kind {
        // EfficientNet (arXiv 1905.11946).
        "gate" => {
            let y = layer(b, "expand", x, Conv2d::new(3 * c, 1), Silu)?;
            let y = layer(b, "depthwise", y, Conv2d::new(3 * c, 3).padding(1).groups(3 * c), Silu)?;
            let y = gate(b, y, 5, [Silu, Sigmoid])?;
            let y = b.conv2d("project", y, Conv2d::new(c, 1).bias())?;
            b.add("sum", y, x)
        }
        // MobileNetV3 (arXiv 1905.02244).
        "hard_gate" => {
            let y = layer(b, "depthwise", x, Conv2d::new(c, 5).padding(2).stride(2).groups(c), HardSwish)?;
            let y = gate(b, y, 3, [Relu, HardSigmoid])?;
            let y = b.activation("se.act", y, HardSwish)?;
            b.conv2d("project", y, Conv2d::new(c + 1, 1).bias())
        }
        // SqueezeNet (arXiv 1602.07360).
        "fire" => {
            let s = layer(b, "squeeze", x, Conv2d::new(5, 1), Relu)?;
            let one = layer(b, "expand1", s, Conv2d::new(9, 1), Relu)?;
            let three = layer(b, "expand3", s, Conv2d::new(7, 3).padding(1), Relu)?;
            b.concat("both", &[one, three])
        }
        // Inception (arXiv 1512.00567).
        "inception" => {
            let one = layer(b, "one", x, Conv2d::new(6, 1), Relu)?;
            let three = layer(b, "three.a", x, Conv2d::new(5, 1), Relu)?;
            let wide =
                layer(b, "three.b", three, Conv2d::new(4, 1).kernel(1, 3).padding_sides(sides([0, 0, 1, 1])), Relu)?;
            let tall =
                layer(b, "three.c", three, Conv2d::new(3, 1).kernel(3, 1).padding_sides(sides([1, 1, 0, 0])), Relu)?;
            let both = b.concat("three", &[wide, tall])?;
            let most = b.max_pool("most", x, Pool2d::new(3).stride(1).padding(1))?;
            let most = layer(b, "most.project", most, Conv2d::new(4, 1), Relu)?;
            let mean =
                b.average_pool("average", three, Pool2d::new(3).stride(1).padding(1).count_include_pad(false))?;
            let mean = layer(b, "average.project", mean, Conv2d::new(2, 1), Relu)?;
            b.concat("all", &[one, both, most, mean])
        }
        // ShuffleNetV2 (arXiv 1807.11164).
        "shuffle" => {
            let half = c / 2;
            let left = b.slice("left", x, 0, half)?;
            let right = b.slice("right", x, half, c - half)?;
            let y = layer(b, "a", right, Conv2d::new(c - half, 1), Relu)?;
            let y = b.conv2d("b", y, Conv2d::new(c - half, 3).padding(1).groups(c - half).bias())?;
            let y = layer(b, "c", y, Conv2d::new(c - half, 1), Relu)?;
            let all = b.concat("all", &[left, y])?;
            b.shuffle_channels("mixed", all, 2)
        }
        "shuffle_down" => {
            let left = b.conv2d("left.a", x, Conv2d::new(c, 3).padding(1).stride(2).groups(c).bias())?;
            let left = layer(b, "left.b", left, Conv2d::new(8, 1), Relu)?;
            let y = layer(b, "a", x, Conv2d::new(10, 1), Relu)?;
            let y = b.conv2d("b", y, Conv2d::new(10, 3).padding(1).stride(2).groups(10).bias())?;
            let y = layer(b, "c", y, Conv2d::new(10, 1), Relu)?;
            let all = b.concat("all", &[left, y])?;
            let mixed = b.shuffle_channels("mixed", all, 3)?;
            // Halves that are read inside of the unit.
            let first = b.slice("first", mixed, 0, 7)?;
            let second = b.slice("second", mixed, 5, 13)?;
            let second = layer(b, "d", second, Conv2d::new(7, 1), Relu)?;
            b.concat("out", &[second, first])
        }
        // DenseNet (arXiv 1608.06993).
        "dense" => {
            let mut all = x;
            for i in 0..2 {
                let y = b.batch_norm(&format!("norm{i}"), all, 1e-5)?;
                let y = b.relu(&format!("norm{i}.relu"), y)?;
                let y = layer(b, &format!("narrow{i}"), y, Conv2d::new(8, 1), Relu)?;
                let y = layer(b, &format!("grow{i}"), y, Conv2d::new(5, 3).padding(1), Relu)?;
                all = b.concat(&format!("all{i}"), &[all, y])?;
            }
            let y = b.batch_norm("norm", all, 1e-5)?;
            let y = b.relu("norm.relu", y)?;
            let y = layer(b, "transition", y, Conv2d::new(9, 1), Relu)?;
            b.average_pool("half", y, Pool2d::new(2))
        }
        // ConvNeXt (arXiv 2201.03545).
        "layer_norm" => {
            let y = b.conv2d("depthwise", x, Conv2d::new(c, 7).padding(3).groups(c).bias())?;
            let y = b.layer_norm("norm", y, 1e-6)?;
            let y = layer(b, "expand", y, Conv2d::new(4 * c, 1), Activation::Gelu)?;
            let y = b.conv2d("project", y, Conv2d::new(c, 1).bias())?;
            b.add("sum", x, y)
        }
        // Values with many readers, and combinations of values that are quantized before.
        "odd" => {
            let a = layer(b, "a", x, Conv2d::new(c, 3).padding(1), Relu)?;
            let free = b.activation("free", a, Silu)?;
            let squared = b.mul("squared", a, a)?;
            let twice = b.add("twice", a, a)?;
            let sum = b.add("sum", free, squared)?;
            let wide = layer(b, "wide", sum, Conv2d::new(c, 3).padding(1), HardSwish)?;
            let product = b.mul("product", wide, twice)?;
            let gated = gate(b, product, 4, [Relu, Sigmoid])?;
            let straight = b.conv2d("straight", gated, Conv2d::new(c, 1).bias())?;
            let other = b.conv2d("other", a, Conv2d::new(c, 1).bias())?;
            let both = b.add("both", straight, other)?;
            let three = b.add("three", both, a)?;
            b.relu("out", three)
        }
        // Pools of several sizes, and the value of a pool at the end.
        "pooled" => {
            let a = layer(b, "a", x, Conv2d::new(c, 3).padding(1), Relu)?;
            let pooled = b.max_pool("pooled", a, Pool2d::new(3).stride(2).padding(1))?;
            let next = layer(b, "next", pooled, Conv2d::new(c, 3).padding(1), HardSwish)?;
            let mean = b.average_pool("average", a, Pool2d::new(2).stride(2).ceil_mode(true))?;
            let all = b.concat("all", &[next, mean, pooled])?;
            let last = layer(b, "last", all, Conv2d::new(c, 1), Relu)?;
            b.max_pool("end", last, Pool2d::new(2).stride(1))
        }
        "two_sums" => {
            let y = b.conv2d("a", x, Conv2d::new(c, 3).padding(1).bias())?;
            let y = b.add("first", y, x)?;
            let y = b.conv2d("b", y, Conv2d::new(c, 3).padding(1).bias())?;
            b.add("second", y, x)
        }
        // The addition reads a value after its activation function.
        "early" => {
            let y = layer(b, "a", x, Conv2d::new(c, 3).padding(1), Relu)?;
            b.add("sum", y, x)
        }
        "enlarged" => {
            let a = layer(b, "a", x, Conv2d::new(c, 3).padding(1), Relu)?;
            let a = b.upsample_nearest("large", a, [2, 2])?;
            layer(b, "last", a, Conv2d::new(c, 1), Relu)
        }
        other => Err(Error::message(format!("no block is called {other}"))),
    }
}

fn sides([top, bottom, left, right]: [usize; 4]) -> ops::Padding {
    ops::Padding { top, bottom, left, right }
}

impl Architecture for Kinds {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: KindsParams = params.parse()?;
        let mut b = GraphBuilder::new([3, p.size, p.size]);
        let image = b.input();
        let x = b.unit("stem", |b| layer(b, "stem", image, Conv2d::new(p.channels, 1), Activation::Relu))?;
        let x = b.unit("block", |b| block(b, &p.kind, x))?;
        // The block's value is not the network's output, so it is quantized as everywhere.
        let x = b.unit("head", |b| layer(b, "head", x, Conv2d::new(4, 1), Activation::Relu))?;
        let mean = b.global_average_pool("mean", x)?;
        let flat = b.flatten("flat", mean)?;
        let logits = b.unit("fc", |b| b.linear("fc", flat, 4))?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "kinds_of_blocks", aliases: [], summary: "one block of a kind",
    build: || Box::new(Kinds)
}

/// The network's parameters for a kind of block.
pub fn kind(name: &str) -> String {
    format!("{{kind: {name}}}")
}

fn learned(params: &str, quantizers: [&str; 2], settings: &QdropParams, engine: Runs) -> Learned {
    let mut model = model_with("kinds_of_blocks", params, quantizers);
    let unit = unit(&model, "block");
    run(&mut model, &unit, settings, engine)
}

#[test]
fn every_kind_of_block_learns_the_same_both_ways() {
    let settings = QdropParams { iters: 24, batch_size: 6, weight: 0.1, ..Default::default() };
    for name in KINDS {
        for (channels, quantizer) in [(12, "lsq"), (22, "lsq_plus")] {
            let params = format!("{{kind: {name}, channels: {channels}}}");
            let [generic, fused] =
                [Runs::GENERIC, Runs::FUSED].map(|engine| learned(&params, ["adaround", quantizer], &settings, engine));
            let (first, last) = (generic.0[0], generic.0[23]);
            assert!(first.reconstruction.is_finite() && last.reconstruction > 0.0, "{name}");
            agree(&format!("{name}, {channels} channels"), &generic, &fused);
        }
    }
}

/// Learned scales of weights and biases, and hard passes.
#[test]
fn every_kind_of_block_learns_everything_the_same_both_ways() {
    let rates = std::collections::BTreeMap::from([(groups::WEIGHT_SCALE.into(), 1e-3), (groups::BIAS.into(), 2e-3)]);
    let settings = QdropParams { iters: 12, batch_size: 6, weight: 0.1, rates, ..Default::default() };
    for name in KINDS {
        let learned = [Runs::GENERIC, Runs::FUSED].map(|engine| {
            let mut model = model_with(
                "kinds_of_blocks",
                &kind(name),
                ["adaround {learn_scale: true, straight_through: true}", "lsq"],
            );
            let unit = unit(&model, "block");
            run_with(&mut model, &unit, engine, &settings.groups(), |task, context| {
                optimize(task, &settings, context).map(|report| report.losses)
            })
        });
        agree(name, &learned[0], &learned[1]);
    }
}

#[test]
fn neither_threads_nor_other_blocks_change_a_bit() {
    let settings = QdropParams { iters: 5, batch_size: 5, warm_up: 0.0, ..Default::default() };
    for name in KINDS {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| learned(&kind(name), ["adaround", "lsq"], &settings, Runs::FUSED))
        };
        let one = with(1);
        assert!(one == with(2) && one == with(3) && one == with(6), "{name}");
    }
}

#[test]
fn blocks_of_regnety_learn_the_same_both_ways() {
    let settings = QdropParams { iters: 16, batch_size: 6, weight: 0.1, ..Default::default() };
    for name in ["s1.b1", "s2.b1", "s3.b2"] {
        let [generic, fused] = [Runs::GENERIC, Runs::FUSED].map(|engine| {
            let mut model = model_with("regnety_400m", "{image_size: 64}", ["adaround", "lsq"]);
            let unit = unit(&model, name);
            run(&mut model, &unit, &settings, engine)
        });
        agree(name, &generic, &fused);
    }
}

/// The device's engine computes rows of layers; everything else is refused with the operation's name.
#[test]
fn the_engine_of_a_gpu_names_what_it_does_not_compute() {
    for (name, why) in [
        ("gate", "'se.mean' (global_average_pool) is an operation that the fused engine of a GPU does not support"),
        ("fire", "'both' (concat) is an operation"),
        ("odd", "'free' (silu) is an operation"),
        (
            "two_sums",
            "the fused engine of a GPU computes one row of layers with one shortcut, from its input to its end",
        ),
        (
            "early",
            "'a' (conv2d) is activated or quantized before it is added, which the fused engine of a GPU does not",
        ),
    ] {
        for device in cuda_devices() {
            let mut model = model_with("kinds_of_blocks", &kind(name), ["adaround", "lsq"]);
            let unit = unit(&model, "block");
            let samples = crate::fused::samples(&model, &unit);
            let mut task = Runs::Cuda(device).place(UnitTask::new(&mut model, &unit, 0, samples).unwrap());
            task.begin(&[groups::ROUNDING, groups::SCALE]).unwrap();
            let random = qdrop_core::random::SeededRandom { seed: 1 };
            let (progress, interruption) = (&qdrop_core::progress::Silent, &qdrop_core::reconstructor::Forget);
            let context = Context { random: &random, progress, interruption, engine: Engine::Fused };
            let error = task.engine(2, &context).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
