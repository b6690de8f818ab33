//! A small RetinaNet (arXiv 1708.02002) that finds items of Fashion-MNIST in pictures, trained with AdamW and a cosine schedule.
//!
//! No picture is seen twice. Those of the training images are drawn while it learns; others, for calibration, and pictures of test
//! images are written next to the weights, which are stored in half precision.

use crate::items::Items;
use crate::network::{learning_rate, Network};
use crate::pictures::{picture, Picture};
use crate::{coco, loss};
use anyhow::{ensure, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use qdrop_core::architecture::Architecture;
use qdrop_core::graph::{Conv2d, Graph, GraphBuilder};
use qdrop_core::kernels::boxes::{AnchorRule, LevelAnchors};
use qdrop_core::params::Params;
use qdrop_core::pipeline::Registries;
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;

const STEPS: usize = 7000;
const BATCH: usize = 16;
const RATE: f64 = 2e-3;
const CALIBRATION: usize = 128;
const TEST: usize = 500;
const CLASSES: usize = 10;
const PYRAMID: usize = 32;
const ANCHORS: usize = 9;
/// Width and height of pictures, in turn.
const SIZES: [[usize; 2]; 4] = [[128, 128], [128, 96], [128, 128], [96, 128]];
/// Mean and standard deviation of ImageNet's pixels, as mmdetection's preprocessing has them.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const STD: [f32; 3] = [58.395, 57.12, 57.375];
/// The probability of an object before anything is learned (section 4.1).
const PRIOR: f64 = 0.01;

/// Trains the network and writes weights and pictures to the folder `target`.
pub fn train((train, test): (&Items, &Items), target: &Path) -> Result<()> {
    for (part, items, count, name) in [(1, train, CALIBRATION, "calibration"), (2, test, TEST, "evaluation")] {
        let pictures: Vec<Picture> =
            (0..count).map(|i| picture(items, (part, i as u32), SIZES[i % SIZES.len()])).collect();
        coco::write(target, name, &pictures)?;
    }
    let registries = Registries::collect()?;
    let architecture = registries.architectures.get("retinanet_r18_fpn", "demo")?.build()?;
    let params = format!("{{classes: {CLASSES}, image_size: [128, 128], width: 16, pyramid: {PYRAMID}}}");
    let params = Params::new("demo", serde_yaml::from_str(&params)?);
    let detector = Detector::new(architecture.as_ref(), &params)?;
    let variables = [detector.body.trainable(), detector.head.trainable()].concat();
    let mut optimizer = AdamW::new(variables, ParamsAdamW { lr: RATE, weight_decay: 0.05, ..Default::default() })?;
    let mut sums = [0.0; 2];
    for step in 0..STEPS {
        let pictures: Vec<Picture> = (0..BATCH)
            .into_par_iter()
            .map(|i| picture(train, (0, (step * BATCH + i) as u32), SIZES[step % SIZES.len()]))
            .collect();
        let parts = detector.loss(&pictures)?;
        optimizer.set_learning_rate(learning_rate(RATE, step, STEPS));
        optimizer.backward_step(&(&parts[0] + &parts[1])?)?;
        for (sum, part) in sums.iter_mut().zip(&parts) {
            *sum += f64::from(part.to_scalar::<f32>()?);
        }
        if (step + 1) % 100 == 0 {
            let [classes, boxes] = std::mem::take(&mut sums).map(|sum| sum / 100.0);
            println!("step {}: loss {classes:.4} of classes, {boxes:.4} of boxes", step + 1);
        }
    }
    let tensors = detector.body.tensors().into_iter().chain(detector.head.tensors());
    let tensors = tensors.map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?)));
    let tensors = tensors.collect::<Result<HashMap<String, Tensor>>>()?;
    Ok(candle_core::safetensors::save(&tensors, target.join("weights.safetensors"))?)
}

/// The parts that are trained.
struct Detector {
    /// ResNet and pyramid.
    body: Network,
    /// What reads each level of the pyramid.
    head: Network,
    anchors: Vec<AnchorRule>,
}

impl Detector {
    fn new(architecture: &dyn Architecture, params: &Params) -> Result<Self> {
        let body = Network::new(architecture.graph(params)?, 2)?;
        let head = Network::new(towers()?, 3)?;
        let parameters = architecture.head(params)?.map(|head| head.parameters()).unwrap_or_default();
        ensure!(parameters == head.graph.parameter_shapes(), "the architecture's head is another one");
        for (name, variable) in &head.parameters {
            if name == "classes.scores.bias" {
                variable.set(&variable.affine(0.0, -((1.0 - PRIOR) / PRIOR).ln())?)?;
            } else if name.contains("scores") || name.contains("deltas") {
                variable.set(&variable.affine(0.1, 0.0)?)?;
            }
        }
        Ok(Self { body, head, anchors: AnchorRule::mmdet_retina() })
    }

    /// The loss of equally large pictures, as its parts.
    fn loss(&self, pictures: &[Picture]) -> Result<[Tensor; 2]> {
        let Picture { width, height, .. } = pictures[0];
        let mut values = Vec::with_capacity(pictures.len() * 3 * width * height);
        for picture in pictures {
            for c in 0..3 {
                values.extend(picture.pixels.chunks_exact(3).map(|pixel| (f32::from(pixel[c]) - MEAN[c]) / STD[c]));
            }
        }
        let images = Tensor::from_vec(values, (pictures.len(), 3, height, width), &Device::Cpu)?;
        let (mut maps, mut anchors): (Vec<[Tensor; 2]>, Vec<LevelAnchors>) = Default::default();
        for (level, rule) in self.body.forward(&images, true)?.iter().zip(&self.anchors) {
            let (_, _, h, w) = level.dims4()?;
            let found = self.head.forward(level, true)?;
            maps.push([found[0].clone(), found[1].clone()]);
            anchors.push(rule.level([h, w], [height, width])?);
        }
        loss::loss(&maps, &anchors, pictures, CLASSES)
    }
}

/// The convolutions of the head: two towers, as those of the architecture.
fn towers() -> Result<Graph> {
    let mut b = GraphBuilder::new([PYRAMID, 32, 32]);
    let input = b.input();
    let mut tower = |name: &str, last: &str, channels: usize| {
        let mut x = input;
        for i in 0..4 {
            x = b.conv2d(&format!("{name}.{i}"), x, Conv2d::new(PYRAMID, 3).padding(1).bias())?;
            x = b.relu(&format!("{name}.relu{i}"), x)?;
        }
        b.conv2d(&format!("{name}.{last}"), x, Conv2d::new(channels, 3).padding(1).bias())
    };
    let outputs = [tower("classes", "scores", ANCHORS * CLASSES)?, tower("boxes", "deltas", ANCHORS * 4)?];
    Ok(b.finish_with_outputs(&outputs)?)
}
