//! The CUDA engine computes what the generic engine computes: on the emulation of its kernels, and on a GPU if there is one.

use crate::fused::{agree, model, run, unit, Learned};
use crate::support::*;
use qdrop_core::kernels::conv::Padding;
use qdrop_core::prelude::*;
use qdrop_emulation::Emulation;
use qdrop_plugins::reconstructors::QdropParams;
use serde::Deserialize;
use std::sync::Arc;

/// A block whose middle convolution has any geometry.
struct AnyConvolution;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AnyParams {
    channels: [usize; 2],
    size: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 4],
    groups: usize,
    dilation: usize,
}

impl Default for AnyParams {
    fn default() -> Self {
        Self { channels: [4, 4], size: [8, 8], kernel: [3, 3], stride: 1, padding: [1; 4], groups: 1, dilation: 1 }
    }
}

impl Architecture for AnyConvolution {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let p: AnyParams = params.parse()?;
        let mut b = GraphBuilder::new([3, p.size[0], p.size[1]]);
        let image = b.input();
        let block = b.unit("block", |b| {
            let x = b.conv2d("before", image, Conv2d::new(p.channels[0], 1).bias())?;
            let x = b.relu6("before.relu6", x)?;
            let [top, bottom, left, right] = p.padding;
            let middle = Conv2d::new(p.channels[1], 1)
                .kernel(p.kernel[0], p.kernel[1])
                .stride(p.stride)
                .groups(p.groups)
                .padding_sides(Padding { top, bottom, left, right })
                .dilation(p.dilation)
                .bias();
            let x = b.conv2d("middle", x, middle)?;
            b.relu("middle.relu", x)
        })?;
        let mean = b.global_average_pool("mean", block)?;
        let flat = b.flatten("flat", mean)?;
        let logits = b.unit("fc", |b| b.linear("fc", flat, 4))?;
        b.finish(logits)
    }
}

register_architecture! {
    name: "any_convolution", aliases: [], summary: "a 1 x 1 convolution before one of any geometry",
    build: || Box::new(AnyConvolution)
}

fn learn(network: &str, params: &str, name: &str, settings: &QdropParams, engine: Runs) -> Learned {
    let mut model = model(network, params, "lsq");
    let unit = unit(&model, name);
    run(&mut model, &unit, settings, engine)
}

fn compare(network: &str, params: &str, name: &str, settings: &QdropParams) {
    let generic = learn(network, params, name, settings, Runs::GENERIC);
    for device in cuda_devices() {
        let learned = learn(network, params, name, settings, Runs::Cuda(device));
        agree(&format!("{network} {params} {name}"), &generic, &learned);
    }
}

#[test]
fn a_convolution_of_any_geometry_learns_the_same() {
    let settings = QdropParams { iters: 6, batch_size: 5, weight: 0.1, warm_up: 0.0, ..Default::default() };
    let geometries = [
        // More channels than a tile has, and rests of tiles.
        "{channels: [70, 67], size: [5, 7], kernel: [3, 3], stride: 1, padding: [1, 1, 1, 1], groups: 1, dilation: 1}",
        "{channels: [8, 6], size: [9, 8], kernel: [3, 3], stride: 2, padding: [0, 1, 0, 1], groups: 2, dilation: 1}",
        "{channels: [6, 9], size: [9, 11], kernel: [2, 3], stride: 1, padding: [2, 0, 1, 3], groups: 3, dilation: 2}",
        "{channels: [4, 5], size: [11, 11], kernel: [7, 7], stride: 3, padding: [3, 3, 3, 3], groups: 1, dilation: 1}",
        // Depthwise: strips with a rest, asymmetric padding, both strides, both kernels; then those without strips.
        "{channels: [36, 36], size: [6, 7], kernel: [3, 3], stride: 1, padding: [1, 1, 1, 1], groups: 36, dilation: 1}",
        "{channels: [8, 8], size: [9, 9], kernel: [3, 3], stride: 2, padding: [0, 1, 0, 1], groups: 8, dilation: 1}",
        "{channels: [8, 8], size: [7, 6], kernel: [5, 5], stride: 1, padding: [2, 2, 2, 2], groups: 8, dilation: 1}",
        "{channels: [40, 40], size: [9, 10], kernel: [5, 5], stride: 2, padding: [2, 2, 2, 2], groups: 40, dilation: 1}",
        "{channels: [6, 6], size: [7, 7], kernel: [3, 3], stride: 2, padding: [1, 1, 1, 1], groups: 6, dilation: 1}",
        "{channels: [8, 8], size: [9, 9], kernel: [5, 5], stride: 1, padding: [4, 4, 4, 4], groups: 8, dilation: 2}",
        "{channels: [4, 8], size: [6, 6], kernel: [3, 3], stride: 1, padding: [1, 1, 1, 1], groups: 4, dilation: 1}",
    ];
    for params in geometries {
        compare("any_convolution", params, "block", &settings);
    }
}

#[test]
fn blocks_of_networks_learn_the_same() {
    let settings = QdropParams { iters: 40, batch_size: 6, weight: 0.1, ..Default::default() };
    let small = "{image_size: 32}";
    for (network, name) in [("mnasnet", "layers.9.0"), ("regnetx_600m", "s2.b1"), ("resnet18", "fc")] {
        compare(network, small, name, &settings);
    }
    compare("resnet18", small, "layer1.0", &QdropParams { drop_prob: 1.0, batch_size: 7, ..settings });
}

#[test]
fn the_order_of_blocks_and_threads_does_not_change_a_bit() {
    let settings = QdropParams { iters: 4, batch_size: 5, warm_up: 0.0, ..Default::default() };
    for (network, name) in [("mobilenet_v2", "features.3"), ("resnet18", "layer2.0")] {
        let [one, other] = [false, true].map(|backwards| {
            let device = Runs::Cuda(Arc::new(Emulation { backwards, ..Emulation::default() }));
            learn(network, "{image_size: 32}", name, &settings, device)
        });
        assert!(one == other, "{network} {name}");
    }
}

#[test]
fn samples_that_the_device_cannot_hold_are_the_same_samples() {
    let settings = QdropParams { iters: 5, batch_size: 3, warm_up: 0.0, ..Default::default() };
    for (network, name) in [("mobilenet_v2", "features.3"), ("resnet18", "fc")] {
        // On the device, in memory of the host, and as they are cached.
        let [one, host, cached] = [(None, false), (Some(0), true), (Some(0), false)].map(|(free, host)| {
            let device = Runs::Cuda(Arc::new(Emulation { free, host, ..Emulation::default() }));
            learn(network, "{image_size: 32}", name, &settings, device)
        });
        assert!(one == host && one == cached, "{network} {name}");
    }
}

#[test]
fn steps_that_the_device_does_not_record_are_the_same_steps() {
    let settings = QdropParams { iters: 5, batch_size: 3, warm_up: 0.0, ..Default::default() };
    let [one, other] = [false, true].map(|refuses| {
        let device = Runs::Cuda(Arc::new(Emulation { refuses, ..Emulation::default() }));
        learn("mobilenet_v2", "{image_size: 32}", "features.3", &settings, device)
    });
    assert!(one == other);
}
