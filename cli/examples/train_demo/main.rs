//! Trains the float networks of the `demo` recipes and writes their data:
//!
//! ```text
//! apt-get install dataset-fashion-mnist
//! cargo run --release -p qdrop --example train_demo -- /usr/share/datasets/fashion-mnist cli/demo
//! cargo run --release -p qdrop --example train_demo -- /usr/share/datasets/fashion-mnist cli/demo_detection retinanet_r18_fpn
//! ```
//!
//! Both use the 60,000 training images of Fashion-MNIST, and its test images for evaluation. `classification.rs` trains ResNet-18,
//! `detection.rs` RetinaNet.
//!
//! With `mobilenet_v2` as a third argument the network is a MobileNetV2 of a quarter of the width. Its channels are made uneven after
//! training: each is divided by a random factor between 1 and 32, for which the weights that read it make up. What the network computes
//! changes only where a ReLU6 cut off a value. `docs/accuracy.md` uses it, because published weights of such networks are uneven.

#![expect(clippy::print_stdout, reason = "prints its progress")]

mod classification;
mod coco;
mod detection;
mod items;
mod loss;
mod network;
mod normalization;
mod pictures;

use anyhow::{Context, Result};
use items::Items;
use qdrop_models as _;
use std::path::Path;

const SEED: u64 = 1;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: train_demo FASHION_MNIST_FOLDER OUTPUT_FOLDER [resnet18 | mobilenet_v2 | retinanet_r18_fpn]";
    let (source, target) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let (source, target) = (Path::new(&source), Path::new(&target));
    let (train, test) = (Items::read(source, "train")?, Items::read(source, "t10k")?);
    match arguments.next().as_deref() {
        None | Some("resnet18") => classification::train("resnet18", (&train, &test), target),
        Some("mobilenet_v2") => classification::train("mobilenet_v2", (&train, &test), target),
        Some("retinanet_r18_fpn") => detection::train((&train, &test), target),
        Some(_) => anyhow::bail!(usage),
    }
}
