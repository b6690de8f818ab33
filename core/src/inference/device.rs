//! Runs a program on a CUDA device: images are channels-last without borders, and what follows a convolution is one kernel.

use super::program::{Instruction, Program, Slot};
use super::weights::{broken, quantized, shape_of, Place, Weights};
use crate::cuda::convolution::{to_device_order, Convolution};
use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels::{self, After, AfterSums, ChannelsOf, Pooling};
use crate::error::Result;
use crate::graph::NodeId;
use crate::model::{Precision, QuantModel};
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Stage;
use qdrop_kernels::nhwc::{Layout, Steps};
use std::sync::Arc;

/// The memory of a device.
pub struct OnDevice(pub Arc<dyn Device>);

/// A layer's weight (O, KH, KW, I / groups) and bias.
pub struct Layer {
    weight: Buffer<f32>,
    bias: Option<Buffer<f32>>,
}

impl Place for OnDevice {
    type Layer = Layer;
    type Vector = Buffer<f32>;
    type Bounds = Buffer<f32>;

    fn layer(&self, shape: &Conv2dShape, weight: &[f32], bias: Option<&[f32]>) -> Result<Layer> {
        let weight = Buffer::new(&*self.0, &to_device_order(shape, weight))?;
        Ok(Layer { weight, bias: bias.map(|bias| Buffer::new(&*self.0, bias)).transpose()? })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Buffer<f32>> {
        Buffer::new(&*self.0, &values)
    }

    fn bounds(&self, values: &[f32]) -> Result<Buffer<f32>> {
        Buffer::new(&*self.0, values)
    }
}

/// What one or several kernels compute.
enum Work {
    /// The sums of a layer, without its bias.
    Convolve { node: NodeId, convolution: Box<Convolution>, from: Slot, to: Slot },
    /// What follows, in place.
    Finish(Finish),
    /// As in the program.
    Other(Instruction),
}

/// What follows a convolution or stands alone: each part is optional.
struct Finish {
    slot: Slot,
    /// The layer whose bias is added.
    bias: Option<NodeId>,
    /// The layer whose sums become values, with those of the rest.
    sums: Option<(NodeId, Option<Slot>)>,
    shortcut: Option<Slot>,
    /// A clip is named by its node.
    stage: Stage<NodeId>,
}

impl Finish {
    fn new(slot: Slot) -> Self {
        let stage = Stage { activation: None, grid: None };
        Self { slot, bias: None, sums: None, shortcut: None, stage }
    }

    /// Whether a stage after it can be part of it.
    fn is_open(&self) -> bool {
        self.shortcut.is_none() && self.stage.activation.is_none() && self.stage.grid.is_none()
    }
}

/// A program for a device, with its buffers.
pub struct Plan {
    work: Vec<Work>,
    buffers: Vec<(Buffer<f32>, Layout)>,
    /// Room for the largest value as planes.
    planes: Buffer<f32>,
}

fn values(layout: &Layout) -> usize {
    layout.batch * layout.height * layout.values()
}

impl Plan {
    pub fn new(device: &dyn Device, program: Program, tf32: bool) -> Result<Self> {
        let Program { instructions, layouts } = program;
        let mut work = Vec::new();
        for instruction in instructions {
            let done = match instruction {
                Instruction::Convolve { node, shape, from, to } => {
                    let convolution = Box::new(Convolution::new(device, shape, false, false, tf32)?);
                    work.push(Work::Convolve { node, convolution, from, to });
                    Finish { bias: Some(node), ..Finish::new(to) }
                }
                Instruction::FromSums { node, slot, rest } => Finish { sums: Some((node, rest)), ..Finish::new(slot) },
                Instruction::Stage { stage, shortcut, slot } => match work.last_mut() {
                    Some(Work::Finish(last)) if last.slot == slot && last.is_open() => {
                        (last.shortcut, last.stage) = (shortcut, stage);
                        continue;
                    }
                    _ => Finish { shortcut, stage, ..Finish::new(slot) },
                },
                other => {
                    work.push(Work::Other(other));
                    continue;
                }
            };
            work.push(Work::Finish(done));
        }
        let most = layouts.iter().map(values).max().unwrap_or(0);
        let buffers = layouts.into_iter().map(|layout| Ok((Buffer::zeros(device, values(&layout))?, layout)));
        Ok(Self { work, buffers: buffers.collect::<Result<_>>()?, planes: Buffer::zeros(device, most)? })
    }

    /// Computes some images. `inputs` are tensors of them, and `outputs` planes of all images, of which these begin at
    /// image `first`.
    pub fn run(
        &self,
        device: &dyn Device,
        model: &QuantModel,
        precision: Precision,
        weights: &Weights<OnDevice>,
        (inputs, outputs): (&[Tensor], &[Buffer<f32>]),
        first: usize,
    ) -> Result<()> {
        for work in &self.work {
            match work {
                Work::Convolve { node, convolution, from, to } => {
                    convolution.forward(device, self.at(*from), &weights.layer(*node)?.weight, self.at(*to))?;
                }
                Work::Finish(finish) => self.finish(device, weights, finish)?,
                Work::Other(Instruction::Read { input, to }) => self.fill(device, &inputs[*input], *to)?,
                Work::Other(Instruction::Write { slot, output }) => {
                    let (from, layout) = &self.buffers[*slot];
                    let sizes = [layout.batch, layout.height * layout.width, layout.channels];
                    kernels::transpose(device, from, &outputs[*output], sizes, first * values(layout) / layout.batch)?;
                }
                Work::Other(Instruction::Node { node, from, to }) => {
                    let ids = &model.graph().node(*node).inputs;
                    let inputs = ids.iter().zip(from).map(|(id, slot)| self.tensor(device, model, *id, *slot));
                    let value = weights.value_of(model, precision, *node, &inputs.collect::<Result<Vec<_>>>()?)?;
                    self.fill(device, &value, *to)?;
                }
                Work::Other(Instruction::Quantize { node, slot }) => {
                    let value = quantized(model, *node, &self.tensor(device, model, *node, *slot)?)?;
                    self.fill(device, &value, *slot)?;
                }
                Work::Other(instruction) => self.instruction(device, weights, instruction)?,
            }
        }
        Ok(())
    }

    fn at(&self, slot: Slot) -> &Buffer<f32> {
        &self.buffers[slot].0
    }

    fn layout(&self, slot: Slot) -> Layout {
        self.buffers[slot].1
    }

    fn finish(&self, device: &dyn Device, weights: &Weights<OnDevice>, finish: &Finish) -> Result<()> {
        let (z, layout) = &self.buffers[finish.slot];
        let stage = finish.stage.try_map(|node| weights.bounds(node))?;
        let mut after = After {
            shortcut: finish.shortcut.map(|slot| self.at(slot)),
            activation: stage.activation,
            grid: stage.grid,
            ..After::default()
        };
        if let Some(node) = finish.bias {
            after.bias = weights.layer(node)?.bias.as_ref();
        }
        if let Some((node, rest)) = finish.sums {
            let [factors, offsets] = &weights.sums(node)?.affine;
            after.sums = Some(AfterSums { factors, rest: rest.map(|slot| self.at(slot)) });
            after.bias = Some(offsets);
        }
        match after.is_nothing() {
            true => Ok(()),
            false => kernels::finish(device, z, layout.channels, after),
        }
    }

    /// Instructions that are one kernel each.
    fn instruction(&self, d: &dyn Device, weights: &Weights<OnDevice>, instruction: &Instruction) -> Result<()> {
        let channels_of =
            |slot: Slot, first| ChannelsOf { values: self.at(slot), channels: self.layout(slot).channels, first };
        match instruction {
            Instruction::ToSteps { node, part, slot } => {
                let (scale, rest) = (weights.sums(*node)?.layer.input_scale, *part == Steps::Rest);
                kernels::to_steps(d, self.at(*slot), scale, rest, self.at(*slot))
            }
            Instruction::Copy { from, to } => kernels::copy_values(d, self.at(*from), self.at(*to)),
            Instruction::MaxPool { shape, from, to } => self.pool(d, Pooling::Max, shape, *from, *to),
            Instruction::AveragePool { shape, from, to } => self.pool(d, Pooling::Average, shape, *from, *to),
            Instruction::Multiply { x, factor, to } => {
                let layout = self.layout(*x);
                let sizes = [layout.batch, layout.height * layout.width, layout.channels];
                kernels::multiply(d, self.at(*x), self.at(*factor), self.at(*to), sizes)
            }
            Instruction::Concat { from, to } => {
                let mut first = 0;
                for from in from {
                    let count = self.layout(*from).channels;
                    kernels::copy_channels(d, channels_of(*from, 0), channels_of(*to, first), count)?;
                    first += count;
                }
                Ok(())
            }
            Instruction::Slice { start, from, to } => {
                let count = self.layout(*to).channels;
                kernels::copy_channels(d, channels_of(*from, *start), channels_of(*to, 0), count)
            }
            Instruction::Shuffle { groups, from, to } => {
                kernels::shuffle(d, self.at(*from), *groups, self.layout(*from).channels, self.at(*to))
            }
            Instruction::Affine { node, from, to } => {
                let [factors, offsets] = weights.affine(*node)?;
                kernels::affine(d, self.at(*from), [factors, offsets], self.at(*to))
            }
            Instruction::LayerNorm { node, eps, from, to } => {
                let [factors, offsets] = weights.affine(*node)?;
                kernels::layer_norm(d, self.at(*from), [factors, offsets], *eps, self.at(*to))
            }
            Instruction::Mean { from, to } => {
                let layout = self.layout(*from);
                let sizes = [layout.height * layout.width, layout.channels];
                kernels::mean(d, self.at(*from), sizes, self.at(*to))
            }
            Instruction::Read { .. }
            | Instruction::Write { .. }
            | Instruction::Node { .. }
            | Instruction::Quantize { .. }
            | Instruction::Convolve { .. }
            | Instruction::FromSums { .. }
            | Instruction::Stage { .. } => Err(broken("an instruction was not prepared")),
        }
    }

    fn pool(
        &self,
        d: &dyn Device,
        pooling: Pooling,
        shape: &qdrop_kernels::pool::Pool2dShape,
        from: Slot,
        to: Slot,
    ) -> Result<()> {
        let layout = self.layout(from);
        kernels::pool(d, pooling, shape, [layout.batch, layout.channels], self.at(from), self.at(to))
    }

    /// Fills a slot with a tensor (N, C, ...).
    fn fill(&self, device: &dyn Device, value: &Tensor, slot: Slot) -> Result<()> {
        let (to, layout) = &self.buffers[slot];
        self.planes.copy(device, &value.contiguous()?)?;
        let sizes = [layout.batch, layout.channels, layout.height * layout.width];
        kernels::transpose(device, &self.planes, to, sizes, 0)
    }

    /// The value of a node as a tensor.
    fn tensor(&self, device: &dyn Device, model: &QuantModel, node: NodeId, slot: Slot) -> Result<Tensor> {
        let (from, layout) = &self.buffers[slot];
        let sizes = [layout.batch, layout.height * layout.width, layout.channels];
        kernels::transpose(device, from, &self.planes, sizes, 0)?;
        let shape = shape_of(model, node, *layout);
        self.planes.to_tensor(device, &shape, model.device())
    }
}
