//! Runs a program on the kernels of the CPU.

use super::program::{Instruction, Program, Slot};
use super::weights::{broken, quantized, shape_of, Place, Weights};
use crate::error::Result;
use crate::graph::NodeId;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::pool::{average_pool, max_pool, mean};
use qdrop_kernels::nhwc::stage::{apply, Bounds};
use qdrop_kernels::nhwc::{
    affine, copy_channels, from_planes, from_sums, layer_norm, multiply, shuffle_channels, to_planes, to_steps,
};
use qdrop_kernels::nhwc::{Buffer, ForwardConvolution, Layout, Packing, Write};
use rayon::prelude::*;

/// The memory of the CPU: weights are packed for their convolutions.
pub struct Cpu;

/// A layer's weight, packed for its convolution.
pub struct PackedLayer {
    value: Buffer,
    /// None where sums of integers become values after the convolution.
    bias: Option<Buffer>,
}

impl Place for Cpu {
    type Layer = PackedLayer;
    type Vector = Vec<f32>;
    type Bounds = Bounds;

    fn layer(&self, shape: &Conv2dShape, weight: &[f32], bias: Option<&[f32]>) -> Result<PackedLayer> {
        let packing = Packing::of(shape);
        let bias = bias.map(|values| packing.pack_lanes(values));
        Ok(PackedLayer { value: ForwardConvolution::weight(shape, weight), bias })
    }

    fn fits(&self, known: &Conv2dShape, other: &Conv2dShape) -> bool {
        ForwardConvolution::share_weight(known, other)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn bounds(&self, values: &[f32]) -> Result<Bounds> {
        Ok(Bounds::new(values))
    }
}

/// A program with its buffers, and its convolutions in the order of their instructions.
pub struct Plan {
    instructions: Vec<Instruction>,
    convolutions: Vec<ForwardConvolution>,
    buffers: Vec<(Buffer, Layout)>,
}

impl Plan {
    pub fn new(program: Program) -> Self {
        let Program { instructions, layouts } = program;
        let convolutions = instructions.iter().filter_map(|instruction| match instruction {
            Instruction::Convolve { shape, from, to, .. } => {
                Some(ForwardConvolution::new(shape, layouts[*from], layouts[*to]))
            }
            _ => None,
        });
        let convolutions = convolutions.collect();
        let buffers = layouts.into_iter().map(|layout| (Buffer::zeros(layout.len()), layout)).collect();
        Self { instructions, convolutions, buffers }
    }

    /// Computes the images from index `first` on, out of `batch` images.
    pub fn run(
        &mut self,
        model: &QuantModel,
        precision: Precision,
        weights: &Weights<Cpu>,
        (inputs, outputs): (&[&[f32]], &mut [Vec<f32>]),
        first: usize,
        batch: usize,
    ) -> Result<()> {
        let Self { instructions, convolutions, buffers } = self;
        let mut convolutions = convolutions.iter_mut();
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
                Instruction::Convolve { node, from, to, .. } => {
                    let layer = weights.layer(*node)?;
                    let ([x, z], bias) = (two(buffers, *from, *to)?, layer.bias.as_deref());
                    let convolution = convolutions.next().ok_or_else(|| broken("a convolution is missing"))?;
                    convolution.run((&x.0, x.1), &layer.value, bias, (&mut z.0, z.1));
                }
                Instruction::ToSteps { node, part, slot } => {
                    let (values, layout) = &mut buffers[*slot];
                    to_steps(weights.sums(*node)?.layer.input_scale, *part, (values, *layout));
                }
                Instruction::FromSums { node, slot, rest } => {
                    let [factors, offsets] = &weights.sums(*node)?.affine;
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
                    let value = weights.value_of(model, precision, *node, &inputs.collect::<Result<Vec<_>>>()?)?;
                    fill(&mut buffers[*to], &value)?;
                }
                Instruction::Quantize { node, slot } => {
                    let value = tensor(model, *node, &buffers[*slot])?;
                    fill(&mut buffers[*slot], &quantized(model, *node, &value)?)?;
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
    let shape = shape_of(model, node, layout);
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
