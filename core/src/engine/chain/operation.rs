//! What a step of a chain computes from the values that it reads.

use qdrop_kernels::pool::Pool2dShape;

/// The operation of a step, before its stage. `L` describes a layer, `A` an affine function of each channel.
#[derive(Debug, Clone)]
pub enum Operation<L, A> {
    /// A convolution of one value.
    Convolution(L),
    /// One value as it is, or the sum of two.
    Sum,
    /// The product of two values. The second one has the size of the first, or is one pixel for all pixels.
    Product,
    /// The mean over all pixels.
    Mean,
    /// Max pooling, with the sizes of one plane.
    MaxPool(Pool2dShape),
    /// Average pooling, with the sizes of one plane.
    AveragePool(Pool2dShape),
    /// All values that it reads, one after the other along the channels.
    Concat,
    /// The channels from `start` on, as many as the step's value has.
    Slice {
        /// The first channel.
        start: usize,
    },
    /// A shuffle of the channels.
    Shuffle {
        /// Number of groups.
        groups: usize,
    },
    /// A factor and an offset for each channel: batch normalization that is not folded.
    Affine(A),
    /// Each pixel's channels are shifted and scaled to mean 0 and variance 1, then by factors and offsets.
    LayerNorm {
        /// The factor and the offset of each channel.
        affine: A,
        /// Added to the variance.
        eps: f32,
    },
}

impl<L, A> Operation<L, A> {
    /// The same operation with other descriptions of layers and of affine functions.
    ///
    /// # Errors
    /// Those of `layer` and `affine`.
    pub fn try_map<M, B, E>(
        self,
        layer: impl FnOnce(L) -> Result<M, E>,
        affine: impl FnOnce(A) -> Result<B, E>,
    ) -> Result<Operation<M, B>, E> {
        Ok(match self {
            Self::Convolution(own) => Operation::Convolution(layer(own)?),
            Self::Affine(own) => Operation::Affine(affine(own)?),
            Self::LayerNorm { affine: own, eps } => Operation::LayerNorm { affine: affine(own)?, eps },
            Self::Sum => Operation::Sum,
            Self::Product => Operation::Product,
            Self::Mean => Operation::Mean,
            Self::MaxPool(shape) => Operation::MaxPool(shape),
            Self::AveragePool(shape) => Operation::AveragePool(shape),
            Self::Concat => Operation::Concat,
            Self::Slice { start } => Operation::Slice { start },
            Self::Shuffle { groups } => Operation::Shuffle { groups },
        })
    }
}
