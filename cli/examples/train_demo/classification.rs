//! The networks that classify Fashion-MNIST, trained with AdamW, a cosine schedule and random mirroring.
//!
//! ResNet-18 has 16 channels in the first stage and a stem for small images, as in the recipe `demo`. The first 1,024 training and
//! 2,500 test images are written next to the weights.

use crate::items::{Items, PIXELS};
use crate::network::{learning_rate, Network};
use crate::SEED;
use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use qdrop_core::graph::channel_groups;
use qdrop_core::model::QuantModel;
use qdrop_core::params::Params;
use qdrop_core::pipeline::Registries;
use qdrop_core::preparation::{clip_scalable_relu6, scale_channels};
use qdrop_core::random::{permutation, stream, Purpose};
use std::path::Path;

const EPOCHS: usize = 3;
const BATCH: usize = 64;
const RATE: f64 = 4e-3;
const CALIBRATION: usize = 1024;
const TEST: usize = 2500;
/// Mean and standard deviation of the training pixels, as in the recipe.
const MEAN: f32 = 0.286;
const STD: f32 = 0.353;
/// Largest factor by which a channel is divided.
const UNEVEN: f64 = 32.0;

/// Trains `resnet18` or `mobilenet_v2` and writes weights and images to the folder `target`.
pub fn train(name: &str, (train, test): (&Items, &Items), target: &Path) -> Result<()> {
    let uneven = name == "mobilenet_v2";
    train.write(target, "train", CALIBRATION)?;
    test.write(target, "t10k", TEST)?;
    let registries = Registries::collect()?;
    let architecture = registries.architectures.get(name, "demo")?.build()?;
    let params = if uneven { "width: 0.25" } else { "width: 16, stem: small" };
    let params = format!("{{classes: 10, in_channels: 1, image_size: 28, {params}}}");
    let graph = architecture.graph(&Params::new("demo", serde_yaml::from_str(&params)?))?;
    let net = Network::new(graph, 0)?;
    let mut optimizer =
        AdamW::new(net.trainable(), ParamsAdamW { lr: RATE, weight_decay: 0.05, ..Default::default() })?;
    let steps = EPOCHS * (train.len() / BATCH);
    let mut step = 0;
    for epoch in 0..EPOCHS {
        let order = permutation(stream(SEED, Purpose::Batch, epoch as u32, 0), train.len());
        let mut losses = 0.0;
        for indices in order.chunks_exact(BATCH) {
            optimizer.set_learning_rate(learning_rate(RATE, step, steps));
            let (images, labels) = batch(train, indices, Some((epoch, step)))?;
            let loss = candle_nn::loss::cross_entropy(&net.forward(&images, true)?[0], &labels)?;
            optimizer.backward_step(&loss)?;
            losses += f64::from(loss.to_scalar::<f32>()?);
            step += 1;
        }
        let loss = losses / (train.len() / BATCH) as f64;
        println!("epoch {epoch}: loss {loss:.4}, test {:.2} %", accuracy(&net, test)?);
    }
    if uneven {
        make_uneven(&net)?;
        println!("with uneven channels: test {:.2} %", accuracy(&net, test)?);
    }
    Ok(candle_core::safetensors::save(&net.tensors(), target.join("weights.safetensors"))?)
}

/// Normalized images and labels. For training, half of the images are mirrored.
fn batch(items: &Items, indices: &[usize], mirror: Option<(usize, usize)>) -> Result<(Tensor, Tensor)> {
    let mut values = Vec::with_capacity(indices.len() * PIXELS);
    for (i, index) in indices.iter().enumerate() {
        let image = items.image(*index);
        let flip = mirror.is_some_and(|(epoch, step)| {
            stream(SEED, Purpose::Augmentation, epoch as u32, step as u32).uniform(i) < 0.5
        });
        values.extend((0..PIXELS).map(|p| {
            let p = if flip { p / 28 * 28 + 27 - p % 28 } else { p };
            (f32::from(image[p]) / 255.0 - MEAN) / STD
        }));
    }
    let labels: Vec<u32> = indices.iter().map(|i| u32::from(items.label(*i))).collect();
    let images = Tensor::from_vec(values, (indices.len(), 1, 28, 28), &Device::Cpu)?;
    Ok((images, Tensor::new(labels, &Device::Cpu)?))
}

/// The share of test images, in percent, whose class is found.
fn accuracy(net: &Network, test: &Items) -> Result<f64> {
    let mut right = 0;
    for indices in (0..test.len()).collect::<Vec<_>>().chunks(500) {
        let (images, labels) = batch(test, indices, None)?;
        let found = net.forward(&images, false)?[0].argmax(1)?;
        right += found.eq(&labels)?.to_dtype(candle_core::DType::U32)?.sum_all()?.to_scalar::<u32>()?;
    }
    Ok(100.0 * f64::from(right) / test.len() as f64)
}

/// Divides every channel that can be scaled by a random factor, whose logarithm is uniform.
fn make_uneven(net: &Network) -> Result<()> {
    let mut model = QuantModel::new(net.graph.clone(), net.tensors(), Device::Cpu);
    clip_scalable_relu6(&mut model)?;
    for (i, group) in channel_groups(&net.graph).iter().enumerate() {
        let random = stream(SEED, Purpose::Calibration, i as u32, 1);
        let factors: Vec<f64> = (0..group.factors).map(|c| UNEVEN.powf(random.uniform(c))).collect();
        scale_channels(&mut model, group, &factors)?;
    }
    for (name, var) in &net.parameters {
        // What is left as it was still is the variable itself.
        var.set(&model.parameter(name)?.copy()?)?;
    }
    Ok(())
}
