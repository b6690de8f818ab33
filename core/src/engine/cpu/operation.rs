//! The operations of the steps of a chain, forward and backward.

use super::images::Images;
use super::weight::Weight;
use crate::engine::chain::{ChainAffine, Operation as Kind, StepSizes};
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Read;
use qdrop_kernels::nhwc::{
    accumulate, affine, copy_channels, layer_norm, layer_norm_backward, multiply, multiply_sum, pool, shuffle_channels,
    spread_channels, Layouts, Write,
};

/// A convolution with its weight.
pub struct Convolution {
    pub weight: Box<Weight>,
    /// Room for the gradient of what it reads, if it is to be added to that of another reader.
    pub room: Option<Images>,
}

/// An operation with what it computes with.
pub struct Operation {
    kind: Kind<Convolution, ChainAffine>,
    /// Max pooling: which pixel of its window gave each value.
    taps: Vec<u8>,
}

impl Operation {
    /// `values` is the number of values that it computes at a time.
    pub fn new(kind: Kind<Convolution, ChainAffine>, values: usize) -> Self {
        let taps = if matches!(kind, Kind::MaxPool(_)) { vec![0; values] } else { Vec::new() };
        Self { kind, taps }
    }

    /// Goes over to values of other sizes, of which it computes so many at a time.
    pub fn reshape(&mut self, sizes: &StepSizes, chunk: usize, layouts: &Layouts) {
        match (&mut self.kind, sizes.convolution, sizes.pool) {
            (Kind::Convolution(Convolution { weight, room }), Some(shape), _) => {
                weight.reshape(&Conv2dShape { batch: chunk, ..shape }, *layouts);
                room.iter_mut().zip(layouts.gx).for_each(|(room, gx)| room.reshape(gx));
            }
            (Kind::MaxPool(own), _, Some(shape)) => {
                *own = shape;
                self.taps.resize(chunk * sizes.size.iter().product::<usize>(), 0);
            }
            (Kind::AveragePool(own), _, Some(shape)) => *own = shape,
            _ => {}
        }
    }

    /// Whether it adds.
    pub fn is_sum(&self) -> bool {
        matches!(self.kind, Kind::Sum)
    }

    /// Whether it computes means.
    pub fn is_mean(&self) -> bool {
        matches!(self.kind, Kind::Mean)
    }

    pub fn weight(&self) -> Option<&Weight> {
        match &self.kind {
            Kind::Convolution(Convolution { weight, .. }) => Some(weight),
            _ => None,
        }
    }

    pub fn weight_mut(&mut self) -> Option<&mut Weight> {
        match &mut self.kind {
            Kind::Convolution(Convolution { weight, .. }) => Some(weight),
            _ => None,
        }
    }

    /// Computes the value from those of `values` that it reads.
    pub fn forward(&mut self, reads: &[usize], values: &[Images], out: &mut Images) {
        let x = |place: usize| values[reads[place]].read();
        match &mut self.kind {
            Kind::Convolution(Convolution { weight, .. }) => weight.forward(x(0), out.write()),
            // Computed by the stage, which reads both values.
            Kind::Sum => {}
            Kind::Product => multiply(x(0), x(1), Write::Replace, out.write()),
            Kind::Mean => pool::mean(x(0), out.write()),
            Kind::MaxPool(shape) => pool::max_pool_with_taps(shape, x(0), out.write(), &mut self.taps),
            Kind::AveragePool(shape) => pool::average_pool(shape, x(0), out.write()),
            Kind::Concat => {
                let mut to = 0;
                for place in 0..reads.len() {
                    let count = x(place).1.channels;
                    copy_channels(x(place), 0, count, Write::Replace, out.write(), to);
                    to += count;
                }
            }
            Kind::Slice { start } => {
                copy_channels(x(0), *start, out.layout.channels, Write::Replace, out.write(), 0);
            }
            Kind::Shuffle { groups } => shuffle_channels(x(0), *groups, Write::Replace, out.write()),
            Kind::Affine(ChainAffine { factors, offsets }) => {
                affine(x(0), factors, Some(offsets), Write::Replace, out.write());
            }
            Kind::LayerNorm { affine: ChainAffine { factors, offsets }, eps } => {
                layer_norm(x(0), [factors, offsets], *eps, out.write());
            }
        }
    }

    /// Writes the gradient of the value at `place` among those that it reads, from that of its own value.
    pub fn backward(
        &mut self,
        place: usize,
        (reads, values): (&[usize], &[Images]),
        gradient: Read<'_>,
        write: Write,
        out: &mut Images,
    ) {
        let x = |place: usize| values[reads[place]].read();
        match &mut self.kind {
            Kind::Convolution(Convolution { weight, room }) => match room {
                Some(room) if write == Write::Add => {
                    weight.backward_input(gradient, room.write());
                    accumulate(room.read(), write, out.write());
                }
                _ => weight.backward_input(gradient, out.write()),
            },
            Kind::Sum => accumulate(gradient, write, out.write()),
            Kind::Product if place == 0 => multiply(gradient, x(1), write, out.write()),
            Kind::Product if out.layout.height * out.layout.width == 1 => {
                multiply_sum(gradient, x(0), write, out.write());
            }
            Kind::Product => multiply(gradient, x(0), write, out.write()),
            Kind::Mean => pool::mean_backward(gradient, write, out.write()),
            Kind::MaxPool(shape) => pool::max_pool_backward(shape, gradient, &self.taps, write, out.write()),
            Kind::AveragePool(shape) => pool::average_pool_backward(shape, gradient, write, out.write()),
            Kind::Concat => {
                let from = (0..place).map(|before| x(before).1.channels).sum();
                copy_channels(gradient, from, out.layout.channels, write, out.write(), 0);
            }
            Kind::Slice { start } => spread_channels(gradient, write, out.write(), *start),
            Kind::Shuffle { groups } => {
                shuffle_channels(gradient, out.layout.channels / *groups, write, out.write());
            }
            Kind::Affine(ChainAffine { factors, .. }) => affine(gradient, factors, None, write, out.write()),
            Kind::LayerNorm { affine: ChainAffine { factors, .. }, eps } => {
                layer_norm_backward(gradient, x(0), factors, *eps, write, out.write());
            }
        }
    }
}
