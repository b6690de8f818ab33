//! Trains the float network of the `demo` recipe and writes its data:
//!
//! ```text
//! apt-get install dataset-fashion-mnist
//! cargo run --release -p qdrop --example train_demo -- /usr/share/datasets/fashion-mnist cli/demo
//! ```
//!
//! The network is the recipe's: ResNet-18 with 16 channels in the first stage and a stem for small images.
//! It is trained on the 60,000 training images of Fashion-MNIST with AdamW, a cosine schedule and
//! random mirroring. The first 1,024 training and 2,500 test images are written next to the weights.
//!
//! With `mobilenet_v2` as a third argument the network is a MobileNetV2 of a quarter of the width. Its channels are made uneven after
//! training: each is divided by a random factor between 1 and 32, for which the weights that read it make up. What the network computes
//! changes only where a ReLU6 cut off a value. `docs/accuracy.md` uses it, because published weights of such networks are uneven.

#![expect(clippy::print_stdout, reason = "prints its progress")]

use anyhow::{Context, Result};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use qdrop_core::graph::{channel_groups, execute, Graph, Op};
use qdrop_core::model::QuantModel;
use qdrop_core::params::Params;
use qdrop_core::pipeline::Registries;
use qdrop_core::preparation::{clip_scalable_relu6, scale_channels};
use qdrop_core::random::{permutation, stream, Purpose};
use qdrop_models as _;
use rayon::prelude::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

const SEED: u64 = 1;
const EPOCHS: usize = 3;
const BATCH: usize = 64;
const RATE: f64 = 4e-3;
const PIXELS: usize = 28 * 28;
const CALIBRATION: usize = 1024;
const TEST: usize = 2500;
/// Mean and standard deviation of the training pixels, as in the recipe.
const MEAN: f32 = 0.286;
const STD: f32 = 0.353;
/// Largest factor by which a channel is divided.
const UNEVEN: f64 = 32.0;
/// PyTorch's default.
const MOMENTUM: f64 = 0.1;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: train_demo FASHION_MNIST_FOLDER OUTPUT_FOLDER [resnet18 | mobilenet_v2]";
    let (source, target) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let (name, uneven, params) = match arguments.next().as_deref() {
        None | Some("resnet18") => ("resnet18", false, "width: 16, stem: small"),
        Some("mobilenet_v2") => ("mobilenet_v2", true, "width: 0.25"),
        Some(_) => anyhow::bail!(usage),
    };
    let (source, target) = (Path::new(&source), Path::new(&target));
    let train = Images::read(source, "train")?;
    let test = Images::read(source, "t10k")?;
    train.write(target, "train", CALIBRATION)?;
    test.write(target, "t10k", TEST)?;

    let registries = Registries::collect()?;
    let architecture = registries.architectures.get(name, "demo")?.build()?;
    let params = format!("{{classes: 10, in_channels: 1, image_size: 28, {params}}}");
    let graph = architecture.graph(&Params::new("demo", serde_yaml::from_str(&params)?))?;
    let mut net = Network::new(graph)?;
    let mut optimizer =
        AdamW::new(net.trainable(), ParamsAdamW { lr: RATE, weight_decay: 0.05, ..Default::default() })?;
    let steps = EPOCHS * (train.len() / BATCH);
    let mut step = 0;
    for epoch in 0..EPOCHS {
        let order = permutation(stream(SEED, Purpose::Batch, epoch as u32, 0), train.len());
        let mut losses = 0.0;
        for indices in order.chunks_exact(BATCH) {
            let warm = ((step + 1) as f64 / 200.0).min(1.0);
            let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            optimizer.set_learning_rate(RATE * warm * cosine);
            let (images, labels) = train.batch(indices, Some((epoch, step)))?;
            let loss = candle_nn::loss::cross_entropy(&net.forward(&images, true)?, &labels)?;
            optimizer.backward_step(&loss)?;
            losses += f64::from(loss.to_scalar::<f32>()?);
            step += 1;
        }
        let loss = losses / (train.len() / BATCH) as f64;
        println!("epoch {epoch}: loss {loss:.4}, test {:.2} %", net.accuracy(&test)?);
    }
    if uneven {
        net.make_uneven()?;
        println!("with uneven channels: test {:.2} %", net.accuracy(&test)?);
    }
    let tensors: HashMap<String, Tensor> =
        net.parameters.iter().map(|(k, v)| (k.clone(), v.as_detached_tensor())).collect();
    candle_core::safetensors::save(&tensors, target.join("weights.safetensors"))?;
    Ok(())
}

/// Images and labels of one split of Fashion-MNIST.
struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Images {
    fn read(folder: &Path, part: &str) -> Result<Self> {
        let read = |name: String, header: usize| -> Result<Vec<u8>> {
            let file = folder.join(name);
            let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut content)?;
            Ok(content.split_off(header))
        };
        let pixels = read(format!("{part}-images-idx3-ubyte.gz"), 16)?;
        Ok(Self { pixels, labels: read(format!("{part}-labels-idx1-ubyte.gz"), 8)? })
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    /// Writes the first `count` images in the same format.
    fn write(&self, folder: &Path, part: &str, count: usize) -> Result<()> {
        let write = |name: String, dims: &[usize], data: &[u8]| -> Result<()> {
            let mut file =
                flate2::GzBuilder::new().write(std::fs::File::create(folder.join(name))?, flate2::Compression::best());
            file.write_all(&[0, 0, 8, dims.len() as u8])?;
            for d in dims {
                file.write_all(&(*d as u32).to_be_bytes())?;
            }
            file.write_all(data)?;
            file.finish()?;
            Ok(())
        };
        write(format!("{part}-images-idx3-ubyte.gz"), &[count, 28, 28], &self.pixels[..count * PIXELS])?;
        write(format!("{part}-labels-idx1-ubyte.gz"), &[count], &self.labels[..count])
    }

    /// Normalized images and labels. For training, half of the images are mirrored.
    fn batch(&self, indices: &[usize], mirror: Option<(usize, usize)>) -> Result<(Tensor, Tensor)> {
        let mut values = Vec::with_capacity(indices.len() * PIXELS);
        for (i, index) in indices.iter().enumerate() {
            let image = &self.pixels[index * PIXELS..][..PIXELS];
            let flip = mirror.is_some_and(|(epoch, step)| {
                stream(SEED, Purpose::Augmentation, epoch as u32, step as u32).uniform(i) < 0.5
            });
            values.extend((0..PIXELS).map(|p| {
                let p = if flip { p / 28 * 28 + 27 - p % 28 } else { p };
                (f32::from(image[p]) / 255.0 - MEAN) / STD
            }));
        }
        let labels: Vec<u32> = indices.iter().map(|i| u32::from(self.labels[*i])).collect();
        let images = Tensor::from_vec(values, (indices.len(), 1, 28, 28), &Device::Cpu)?;
        Ok((images, Tensor::new(labels, &Device::Cpu)?))
    }
}

struct Network {
    graph: Graph,
    parameters: HashMap<String, Var>,
}

impl Network {
    /// Random weights (He et al., arXiv 1502.01852); batch normalization begins as the identity.
    fn new(graph: Graph) -> Result<Self> {
        let mut parameters = HashMap::new();
        for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = if shape.len() > 1 {
                let fan_in: usize = shape[1..].iter().product();
                let bound = (6.0 / fan_in as f64).sqrt();
                let random = stream(SEED, Purpose::Calibration, i as u32, 0);
                (0..n).map(|j| ((random.uniform(j) * 2.0 - 1.0) * bound) as f32).collect()
            } else {
                // The weight of a batch normalization has one dimension too.
                let one = name.ends_with("running_var") || name.ends_with("weight");
                vec![if one { 1.0 } else { 0.0 }; n]
            };
            parameters.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?);
        }
        Ok(Self { graph, parameters })
    }

    fn trainable(&self) -> Vec<Var> {
        let mut named: Vec<_> = self.parameters.iter().filter(|(n, _)| !n.contains("running")).collect();
        named.sort_by_key(|(n, _)| n.as_str());
        named.into_iter().map(|(_, v)| v.clone()).collect()
    }

    /// The share of test images, in percent, whose class is found.
    fn accuracy(&mut self, test: &Images) -> Result<f64> {
        let mut right = 0;
        for indices in (0..test.len()).collect::<Vec<_>>().chunks(500) {
            let (images, labels) = test.batch(indices, None)?;
            let found = self.forward(&images, false)?.argmax(1)?;
            right += found.eq(&labels)?.to_dtype(candle_core::DType::U32)?.sum_all()?.to_scalar::<u32>()?;
        }
        Ok(100.0 * f64::from(right) / test.len() as f64)
    }

    /// Divides every channel that can be scaled by a random factor, whose logarithm is uniform.
    fn make_uneven(&mut self) -> Result<()> {
        let tensors = self.parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor()));
        let mut model = QuantModel::new(self.graph.clone(), tensors.collect(), Device::Cpu);
        clip_scalable_relu6(&mut model)?;
        for (i, group) in channel_groups(&self.graph).iter().enumerate() {
            let random = stream(SEED, Purpose::Calibration, i as u32, 1);
            let factors: Vec<f64> = (0..group.factors).map(|c| UNEVEN.powf(random.uniform(c))).collect();
            scale_channels(&mut model, group, &factors)?;
        }
        for (name, var) in &self.parameters {
            // What is left as it was still is the variable itself.
            var.set(&model.parameter(name)?.copy()?)?;
        }
        Ok(())
    }

    fn forward(&mut self, images: &Tensor, training: bool) -> Result<Tensor> {
        let tensors: HashMap<String, Tensor> =
            self.parameters.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect();
        let mut values = vec![images.clone()];
        for (_, node) in self.graph.nodes().skip(1) {
            let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i.index()]).collect();
            let value = match node.op {
                Op::BatchNorm { eps } if training => self.normalize(&node.name, inputs[0], eps)?,
                _ => execute(node, &inputs, &tensors, Default::default())?,
            };
            values.push(value);
        }
        Ok(values.swap_remove(self.graph.outputs()[0].index()))
    }

    /// Normalizes with the batch's statistics and updates the running ones.
    fn normalize(&self, name: &str, x: &Tensor, eps: f64) -> Result<Tensor> {
        let var = |own: &str| &self.parameters[&format!("{name}.{own}")];
        let (n, _, h, w) = x.dims4()?;
        let (mean, variance) = statistics(x)?;
        let count = (n * h * w) as f64;
        for (own, new, factor) in [("running_mean", &mean, 1.0), ("running_var", &variance, count / (count - 1.0))] {
            let old = var(own).as_detached_tensor();
            let new = Tensor::new(new.as_slice(), &Device::Cpu)?;
            var(own).set(&((old * (1.0 - MOMENTUM))? + (new * (MOMENTUM * factor))?)?)?;
        }
        let op = BatchNormOp { mean, inverse: variance.iter().map(|v| 1.0 / (v + eps as f32).sqrt()).collect() };
        Ok(x.contiguous()?.apply_op3(var("weight").as_tensor(), var("bias").as_tensor(), op)?)
    }
}

fn values(x: &Tensor) -> candle_core::Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

/// The planes of channel `c`.
fn planes(x: &[f32], channels: usize, plane: usize, c: usize) -> impl Iterator<Item = &[f32]> {
    x.chunks_exact(plane).skip(c).step_by(channels)
}

/// Mean and variance of each channel.
fn statistics(x: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
    let (n, c, h, w) = x.dims4()?;
    let v = values(x)?;
    let count = (n * h * w) as f64;
    Ok((0..c)
        .into_par_iter()
        .map(|c_| {
            let sum: f64 = planes(&v, c, h * w, c_).map(|p| f64::from(p.iter().sum::<f32>())).sum();
            let mean = (sum / count) as f32;
            let squares = |p: &[f32]| f64::from(p.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>());
            (mean, (planes(&v, c, h * w, c_).map(squares).sum::<f64>() / count) as f32)
        })
        .unzip())
}

/// Batch normalization in training (arXiv 1502.03167, algorithm 1) with its gradient.
struct BatchNormOp {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        _: &Layout,
        b: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, g, b) = (x.as_slice::<f32>()?, g.as_slice::<f32>()?, b.as_slice::<f32>()?);
        let (_, c, h, w) = lx.shape().dims4()?;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(h * w).zip(x.par_chunks(h * w)).enumerate().for_each(|(i, (out, x))| {
            let c = i % c;
            for (o, v) in out.iter_mut().zip(x) {
                *o = (v - self.mean[c]) * self.inverse[c] * g[c] + b[c];
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        g: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c, h, w) = x.dims4()?;
        let (xs, gs, dy) = (values(x)?, values(g)?, values(grad)?);
        let count = (n * h * w) as f32;
        let sums: Vec<(f32, f32)> = (0..c)
            .into_par_iter()
            .map(|k| {
                let (mut s0, mut s1) = (0.0_f64, 0.0_f64);
                for (x, d) in planes(&xs, c, h * w, k).zip(planes(&dy, c, h * w, k)) {
                    let (mut a, mut b) = (0.0_f32, 0.0_f32);
                    for (x, d) in x.iter().zip(d) {
                        a += d;
                        b += d * (x - self.mean[k]) * self.inverse[k];
                    }
                    s0 += f64::from(a);
                    s1 += f64::from(b);
                }
                (s0 as f32, s1 as f32)
            })
            .collect();
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(h * w).enumerate().for_each(|(i, out)| {
            let k = i % c;
            let (s0, s1) = sums[k];
            for (j, o) in out.iter_mut().enumerate() {
                let at = i * h * w + j;
                let normalized = (xs[at] - self.mean[k]) * self.inverse[k];
                *o = gs[k] * self.inverse[k] * (dy[at] - s0 / count - normalized * s1 / count);
            }
        });
        let (db, dg): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dg, g.shape(), g.device())?),
            Some(Tensor::from_vec(db, b.shape(), b.device())?),
        ))
    }
}
