//! What the sites of a chain keep in a step.

use crate::error::Result;
use crate::ops::Keep;
use candle_core::DType;
use qdrop_kernels::drop::{self as kernel, Mixing};
use qdrop_kernels::random::Stream;

/// What one site keeps, for a whole batch.
pub enum Choice {
    All,
    Random(Stream, f32),
    Weighted(Stream),
    /// In the order (image, row, column, channel).
    Mask(Vec<u8>),
}

impl Choice {
    pub fn new(keep: Keep, channels: usize) -> Result<Self> {
        Ok(match keep {
            Keep::All => Self::All,
            Keep::Random { probability, .. } if probability >= 1.0 => Self::All,
            Keep::Random { stream, probability } => Self::Random(stream, probability),
            Keep::Mixed { stream } => Self::Weighted(stream),
            Keep::Mask(mask) => {
                let planes = mask.dims().iter().skip(2).product::<usize>();
                let mask: Vec<u8> = mask.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
                let image = (channels * planes).max(1);
                // Index of a channels-last element in the planes.
                let at = |i: usize| i / image * image + i % image % channels * planes + i % image / channels;
                Self::Mask((0..mask.len()).map(|i| mask[at(i)]).collect())
            }
        })
    }

    pub fn mixing(&self) -> Mixing<'_> {
        Mixing::Chosen(match self {
            Self::All => kernel::Keep::All,
            Self::Random(stream, probability) => kernel::Keep::Random { stream: *stream, probability: *probability },
            Self::Mask(mask) => kernel::Keep::Mask(mask),
            Self::Weighted(stream) => return Mixing::Weighted(*stream),
        })
    }
}
