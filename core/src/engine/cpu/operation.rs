//! The operations of the steps of a chain, forward and backward.

use super::images::Images;
use super::weight::Weight;
use crate::engine::chain::ChainAffine;
use qdrop_kernels::nhwc::stage::Read;
use qdrop_kernels::nhwc::{
    accumulate, affine, copy_channels, layer_norm, layer_norm_backward, multiply, multiply_sum, pool, shuffle_channels,
    spread_channels, Write,
};
use qdrop_kernels::pool::Pool2dShape;

/// An operation with what it computes with.
pub enum Operation {
    Convolution {
        weight: Box<Weight>,
        /// Room for the gradient of what it reads, if it is to be added to that of another reader.
        room: Option<Images>,
    },
    /// Computed by the stage, which reads both values.
    Sum,
    Product,
    Mean,
    MaxPool {
        shape: Pool2dShape,
        /// Which pixel of its window gave each value.
        taps: Vec<u8>,
    },
    AveragePool(Pool2dShape),
    Concat,
    Slice {
        start: usize,
    },
    Shuffle {
        groups: usize,
    },
    Affine(ChainAffine),
    LayerNorm {
        affine: ChainAffine,
        eps: f32,
    },
}

impl Operation {
    pub fn weight(&self) -> Option<&Weight> {
        match self {
            Self::Convolution { weight, .. } => Some(weight),
            _ => None,
        }
    }

    pub fn weight_mut(&mut self) -> Option<&mut Weight> {
        match self {
            Self::Convolution { weight, .. } => Some(weight),
            _ => None,
        }
    }

    /// Computes the value from those of `values` that it reads.
    pub fn forward(&mut self, reads: &[usize], values: &[Images], out: &mut Images) {
        let x = |place: usize| values[reads[place]].read();
        match self {
            Self::Convolution { weight, .. } => weight.forward(x(0), out.write()),
            Self::Sum => {}
            Self::Product => multiply(x(0), x(1), Write::Replace, out.write()),
            Self::Mean => pool::mean(x(0), out.write()),
            Self::MaxPool { shape, taps } => pool::max_pool_with_taps(shape, x(0), out.write(), taps),
            Self::AveragePool(shape) => pool::average_pool(shape, x(0), out.write()),
            Self::Concat => {
                let mut to = 0;
                for place in 0..reads.len() {
                    let count = x(place).1.channels;
                    copy_channels(x(place), 0, count, Write::Replace, out.write(), to);
                    to += count;
                }
            }
            Self::Slice { start } => {
                copy_channels(x(0), *start, out.layout.channels, Write::Replace, out.write(), 0);
            }
            Self::Shuffle { groups } => shuffle_channels(x(0), *groups, Write::Replace, out.write()),
            Self::Affine(ChainAffine { factors, offsets }) => {
                affine(x(0), factors, Some(offsets), Write::Replace, out.write());
            }
            Self::LayerNorm { affine: ChainAffine { factors, offsets }, eps } => {
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
        match self {
            Self::Convolution { weight, room } => match room {
                Some(room) if write == Write::Add => {
                    weight.backward_input(gradient, room.write());
                    accumulate(room.read(), write, out.write());
                }
                _ => weight.backward_input(gradient, out.write()),
            },
            Self::Sum => accumulate(gradient, write, out.write()),
            Self::Product if place == 0 => multiply(gradient, x(1), write, out.write()),
            Self::Product if out.layout.height * out.layout.width == 1 => {
                multiply_sum(gradient, x(0), write, out.write());
            }
            Self::Product => multiply(gradient, x(0), write, out.write()),
            Self::Mean => pool::mean_backward(gradient, write, out.write()),
            Self::MaxPool { shape, taps } => pool::max_pool_backward(shape, gradient, taps, write, out.write()),
            Self::AveragePool(shape) => pool::average_pool_backward(shape, gradient, write, out.write()),
            Self::Concat => {
                let from = (0..place).map(|before| x(before).1.channels).sum();
                copy_channels(gradient, from, out.layout.channels, write, out.write(), 0);
            }
            Self::Slice { start } => spread_channels(gradient, write, out.write(), *start),
            Self::Shuffle { groups } => {
                shuffle_channels(gradient, out.layout.channels / *groups, write, out.write());
            }
            Self::Affine(ChainAffine { factors, .. }) => affine(gradient, factors, None, write, out.write()),
            Self::LayerNorm { affine: ChainAffine { factors, .. }, eps } => {
                layer_norm_backward(gradient, x(0), factors, *eps, write, out.write());
            }
        }
    }
}
