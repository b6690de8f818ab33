//! The plan of a forward pass for a fixed number of images.

use super::weights::{Sums, Weights};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::nhwc::pool::{average_pool, max_pool, mean};
use qdrop_kernels::nhwc::stage::{apply, Stage};
use qdrop_kernels::nhwc::{
    affine, copy_channels, from_planes, from_sums, layer_norm, multiply, shuffle_channels, to_planes, to_steps,
};
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Layout, Steps, Write};
use qdrop_kernels::pool::Pool2dShape;
use rayon::prelude::*;

/// Index of a buffer.
pub type Slot = usize;

/// One instruction of the plan.
pub enum Instruction {
    /// Converts an input of the pass from planes to channels-last.
    Read {
        input: usize,
        to: Slot,
    },
    /// Computes a convolution or a fully connected layer.
    Convolve {
        node: NodeId,
        convolution: Box<ForwardConvolution>,
        from: Slot,
        to: Slot,
    },
    /// Divides values by the scale of the layer that reads them, in place.
    ToSteps {
        node: NodeId,
        part: Steps,
        slot: Slot,
    },
    /// Turns a layer's sums of integers into values, in place.
    FromSums {
        node: NodeId,
        slot: Slot,
        /// The sums of the rest that the integers left.
        rest: Option<Slot>,
    },
    /// Adds a shortcut, applies an activation function and a quantizer, in place. Each is optional.
    Stage {
        /// A clip is named by its node.
        stage: Stage<NodeId>,
        shortcut: Option<Slot>,
        slot: Slot,
    },
    Copy {
        from: Slot,
        to: Slot,
    },
    MaxPool {
        shape: Pool2dShape,
        from: Slot,
        to: Slot,
    },
    AveragePool {
        shape: Pool2dShape,
        from: Slot,
        to: Slot,
    },
    /// Multiplies by a value of equal size, or by one pixel.
    Multiply {
        x: Slot,
        factor: Slot,
        to: Slot,
    },
    /// Puts values one after the other along the channels.
    Concat {
        from: Vec<Slot>,
        to: Slot,
    },
    /// Takes channels from `start` on.
    Slice {
        start: usize,
        from: Slot,
        to: Slot,
    },
    /// Shuffles channels.
    Shuffle {
        groups: usize,
        from: Slot,
        to: Slot,
    },
    /// Computes batch normalization that is not folded.
    Affine {
        node: NodeId,
        from: Slot,
        to: Slot,
    },
    /// Computes layer normalization.
    LayerNorm {
        node: NodeId,
        eps: f32,
        from: Slot,
        to: Slot,
    },
    /// Computes the mean over all pixels.
    Mean {
        from: Slot,
        to: Slot,
    },
    /// Computes a node and its quantizer with candle.
    Node {
        node: NodeId,
        from: Vec<Slot>,
        to: Slot,
    },
    /// Applies a node's quantizer with candle, in place.
    Quantize {
        node: NodeId,
        slot: Slot,
    },
    /// Copies a value to an output of the pass.
    Write {
        slot: Slot,
        output: usize,
    },
}

/// All instructions, and the buffers that they share.
pub struct Plan {
    pub instructions: Vec<Instruction>,
    pub buffers: Vec<(Buffer, Layout)>,
}

impl Plan {
    /// Computes the images from index `first` on, out of `batch` images.
    pub fn run(
        &mut self,
        model: &QuantModel,
        precision: Precision,
        weights: &Weights,
        (inputs, outputs): (&[Vec<f32>], &mut [Vec<f32>]),
        first: usize,
        batch: usize,
    ) -> Result<()> {
        let Self { instructions, buffers } = self;
        for instruction in instructions {
            match instruction {
                Instruction::Read { input, to } => {
                    let each = inputs[*input].len() / batch;
                    let (values, layout) = &mut buffers[*to];
                    let planes = inputs[*input][first * each..].par_chunks_exact(each);
                    planes.zip(values.par_chunks_exact_mut(layout.image())).for_each(|(planes, image)| {
                        from_planes(planes, Layout { batch: 1, ..*layout }, image);
                    });
                }
                Instruction::Convolve { node, convolution, from, to } => {
                    let layer = weights.get(*node)?;
                    let ([x, z], bias) = (two(buffers, *from, *to)?, layer.bias.as_deref());
                    convolution.run((&x.0, x.1), &layer.value, bias, (&mut z.0, z.1));
                }
                Instruction::ToSteps { node, part, slot } => {
                    let (values, layout) = &mut buffers[*slot];
                    to_steps(sums(weights, *node)?.layer().input_scale, *part, (values, *layout));
                }
                Instruction::FromSums { node, slot, rest } => {
                    let [factors, offsets] = sums(weights, *node)?.affine();
                    match rest {
                        Some(rest) => {
                            let [rest, z] = two(buffers, *rest, *slot)?;
                            from_sums(factors, offsets, Some((&rest.0, rest.1)), (&mut z.0, z.1));
                        }
                        None => {
                            let (values, layout) = &mut buffers[*slot];
                            from_sums(factors, offsets, None, (values, *layout));
                        }
                    }
                }
                Instruction::Stage { stage, shortcut, slot } => {
                    let stage = stage.try_map(|node| weights.bounds(node))?;
                    match shortcut {
                        None => {
                            let (values, layout) = &mut buffers[*slot];
                            apply(stage, None, (values, *layout));
                        }
                        Some(shortcut) => {
                            let [s, z] = two(buffers, *shortcut, *slot)?;
                            apply(stage, Some((&s.0, s.1)), (&mut z.0, z.1));
                        }
                    }
                }
                Instruction::Copy { from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    for image in 0..z.1.batch {
                        for row in 0..z.1.height {
                            let values = &x.0[x.1.offset(image, row)..][..x.1.values()];
                            let at = z.1.offset(image, row);
                            z.0[at..at + values.len()].copy_from_slice(values);
                        }
                    }
                }
                Instruction::MaxPool { shape, from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    max_pool(shape, (&x.0, x.1), (&mut z.0, z.1));
                }
                Instruction::AveragePool { shape, from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    average_pool(shape, (&x.0, x.1), (&mut z.0, z.1));
                }
                Instruction::Multiply { x, factor, to } if x == factor => {
                    let [x, z] = two(buffers, *x, *to)?;
                    multiply((&x.0, x.1), (&x.0, x.1), Write::Replace, (&mut z.0, z.1));
                }
                Instruction::Multiply { x, factor, to } => {
                    let three = buffers.get_disjoint_mut([*x, *factor, *to]);
                    let [x, f, z] = three.map_err(|_| broken("a value is read where it is written"))?;
                    multiply((&x.0, x.1), (&f.0, f.1), Write::Replace, (&mut z.0, z.1));
                }
                Instruction::Concat { from, to } => {
                    let mut first = 0;
                    for from in from {
                        let [x, z] = two(buffers, *from, *to)?;
                        let count = x.1.channels;
                        copy_channels((&x.0, x.1), 0, count, Write::Replace, (&mut z.0, z.1), first);
                        first += count;
                    }
                }
                Instruction::Slice { start, from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    let count = z.1.channels;
                    copy_channels((&x.0, x.1), *start, count, Write::Replace, (&mut z.0, z.1), 0);
                }
                Instruction::Shuffle { groups, from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    shuffle_channels((&x.0, x.1), *groups, Write::Replace, (&mut z.0, z.1));
                }
                Instruction::Affine { node, from, to } => {
                    let [factors, offsets] = weights.affine(*node)?;
                    let [x, z] = two(buffers, *from, *to)?;
                    affine((&x.0, x.1), factors, Some(offsets), Write::Replace, (&mut z.0, z.1));
                }
                Instruction::LayerNorm { node, eps, from, to } => {
                    let [factors, offsets] = weights.affine(*node)?;
                    let [x, z] = two(buffers, *from, *to)?;
                    layer_norm((&x.0, x.1), [factors, offsets], *eps, (&mut z.0, z.1));
                }
                Instruction::Mean { from, to } => {
                    let [x, z] = two(buffers, *from, *to)?;
                    mean((&x.0, x.1), (&mut z.0, z.1));
                }
                Instruction::Node { node, from, to } => {
                    let ids = &model.graph().node(*node).inputs;
                    let inputs = ids.iter().zip(from).map(|(id, slot)| tensor(model, *id, &buffers[*slot]));
                    let inputs = inputs.collect::<Result<Vec<_>>>()?;
                    let value = model.value_of_sums(
                        *node,
                        &inputs.iter().collect::<Vec<_>>(),
                        precision,
                        weights.sums(*node).map(Sums::layer),
                    )?;
                    fill(&mut buffers[*to], &value)?;
                }
                Instruction::Quantize { node, slot } => {
                    let value = tensor(model, *node, &buffers[*slot])?;
                    let site = model.activation_site(*node).ok_or_else(|| broken("a quantizer is missing"))?;
                    fill(&mut buffers[*slot], &site.quantizer.fake_quantize(&value)?)?;
                }
                Instruction::Write { slot, output } => {
                    let each = outputs[*output].len() / batch;
                    planes_of(&buffers[*slot], &mut outputs[*output][first * each..]);
                }
            }
        }
        Ok(())
    }
}

fn broken(what: &str) -> Error {
    Error::message(format!("the forward pass: {what}"))
}

fn sums(weights: &Weights, node: NodeId) -> Result<&Sums> {
    weights.sums(node).ok_or_else(|| broken("sums of integers were not prepared"))
}

/// Two different buffers, one to read and one to write.
fn two(buffers: &mut [(Buffer, Layout)], read: Slot, write: Slot) -> Result<[&mut (Buffer, Layout); 2]> {
    buffers.get_disjoint_mut([read, write]).map_err(|_| broken("a value is read where it is written"))
}

/// Converts all images to planes.
fn planes_of((values, layout): &(Buffer, Layout), out: &mut [f32]) {
    let each = layout.height * layout.values();
    let images = values.par_chunks_exact(layout.image());
    images.zip(out.par_chunks_exact_mut(each)).for_each(|(image, planes)| {
        to_planes(image, Layout { batch: 1, ..*layout }, planes);
    });
}

fn tensor(model: &QuantModel, node: NodeId, buffer: &(Buffer, Layout)) -> Result<Tensor> {
    let layout = buffer.1;
    let mut planes = vec![0.0; layout.batch * layout.height * layout.values()];
    planes_of(buffer, &mut planes);
    let shape = [&[layout.batch], model.graph().node(node).shape.as_slice()].concat();
    Ok(Tensor::from_vec(planes, shape, model.device())?)
}

fn fill((values, layout): &mut (Buffer, Layout), value: &Tensor) -> Result<()> {
    let each = layout.height * layout.values();
    host_values(value, |planes| {
        for (planes, image) in planes.chunks_exact(each).zip(values.chunks_exact_mut(layout.image())) {
            from_planes(planes, Layout { batch: 1, ..*layout }, image);
        }
    })?;
    Ok(())
}
