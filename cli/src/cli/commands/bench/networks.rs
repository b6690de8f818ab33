//! Benchmarks of whole networks.

use super::blocks::{median, On};
use crate::recipes;
use anyhow::{Context, Result};
use qdrop_core::engine::Engine;
use qdrop_core::inference::Inference;
use qdrop_core::model::Precision;
use qdrop_core::pipeline::{Estimate, Registries, Session};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use std::time::Instant;

/// Images in one forward pass.
pub const BATCH: usize = 64;
/// Number of first passes that are not counted.
const WARM_UP: usize = 1;

/// A session with the W4A4 recipe of a network.
fn session<'a>(network: &str, engine: Engine, registries: &'a Registries, on: &On) -> Result<Session<'a>> {
    let mut recipe = recipes::load(format!("imagenet/{network}_w4a4"))?;
    (recipe.engine, recipe.tf32) = (engine, on.tf32);
    Session::new(recipe, registries, on.device.clone()).with_context(|| format!("the recipe of {network}"))
}

/// Median milliseconds of a forward pass of a quantized network.
pub fn evaluated(network: &str, iters: usize, registries: &Registries, on: &On) -> Result<f64> {
    let session = session(network, Engine::Auto, registries, on)?;
    // Neither weights nor ranges change the time.
    let model = session.noise_model()?;
    let shape = [&[BATCH], model.graph().input_shape()].concat();
    let images = Tensor::ones(shape, DType::F32, &on.device)?;
    let mut inference = Inference::of_network(&model, Precision::Quantized)?;
    let mut times = Vec::new();
    for pass in 0..iters + WARM_UP {
        let start = Instant::now();
        // The logits are read on the host, so a GPU has finished.
        inference.forward(&images)?[0].to_device(&Device::Cpu)?;
        if pass >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(median(times))
}

/// The estimated time of the published reconstruction of a network.
pub fn estimated(network: &str, engine: Engine, registries: &Registries) -> Result<Estimate> {
    let on = On { device: Device::Cpu, tf32: false };
    let session = session(network, engine, registries, &on)?;
    session.estimate(session.zero_model()?, &Silent).with_context(|| format!("estimating {network}"))
}
