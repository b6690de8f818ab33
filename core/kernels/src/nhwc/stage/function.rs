//! The function that a stage applies to each value before its quantizer.

use super::group::Group;
use crate::activation::Activation;
use crate::drop::GROUP;
use crate::nhwc::buffer::Buffer;

/// An activation function of a stage. `B` stands for the bounds of a clip: a stage reads them as [`Bounds`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function<B> {
    /// The same function for all channels.
    Activation(Activation),
    /// `min(max(x, 0), bound)` with one bound for each channel.
    Clip(B),
}

impl<B> Function<B> {
    /// The same function with its bounds as another type.
    #[inline(always)]
    pub fn map<C>(self, bounds: impl FnOnce(B) -> C) -> Function<C> {
        match self {
            Self::Activation(activation) => Function::Activation(activation),
            Self::Clip(own) => Function::Clip(bounds(own)),
        }
    }

    /// As [`map`](Self::map), of what may fail.
    ///
    /// # Errors
    /// Those of `bounds`.
    pub fn try_map<C, E>(self, bounds: impl FnOnce(B) -> Result<C, E>) -> Result<Function<C>, E> {
        Ok(match self {
            Self::Activation(activation) => Function::Activation(activation),
            Self::Clip(own) => Function::Clip(bounds(own)?),
        })
    }

    /// The same function, whose bounds are borrowed.
    pub fn as_ref(&self) -> Function<&B> {
        match self {
            Self::Activation(activation) => Function::Activation(*activation),
            Self::Clip(bounds) => Function::Clip(bounds),
        }
    }
}

/// The bounds of a clip, prepared for rows of channels-last values. Value `i` of a row belongs to channel
/// `i % channels`; the bounds are repeated, so that those of the values of a group lie together wherever the group begins.
#[derive(Debug, Clone)]
pub struct Bounds {
    repeated: Buffer,
    channels: usize,
}

impl Bounds {
    /// Prepares one bound for each channel, of which there is one at least.
    pub fn new(of_channels: &[f32]) -> Self {
        let channels = of_channels.len();
        let mut repeated = Buffer::zeros(channels + GROUP);
        repeated.iter_mut().zip(of_channels.iter().cycle()).for_each(|(own, bound)| *own = *bound);
        Self { repeated, channels }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bounds of group `number` of a row.
    #[inline(always)]
    pub(super) fn group(&self, number: usize) -> &Group {
        &self.repeated[number * GROUP % self.channels..].as_chunks().0[0]
    }
}
