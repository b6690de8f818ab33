//! The shape of an operation's value.

use super::Op;
use crate::error::{Error, Result};
use crate::ops::Padding;
use qdrop_kernels::conv::Conv2dShape;

/// Most elements that a value of one image may have, and largest size of a window, stride or side of padding. Beyond it
/// a network is taken for a mistake, and sizes could overflow.
const LARGEST: usize = 1 << 31;

impl Op {
    /// Shape of the value, given the shapes of the inputs; all without the batch dimension: (C, H, W) or (features).
    ///
    /// # Errors
    /// The number of inputs or their shapes are not those of the operation, or the value would be empty or absurdly
    /// large.
    pub fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.check_count(inputs.len())?;
        let first = inputs.first().copied().unwrap_or_default();
        let shape = match self {
            Self::Input => return Err(Error::message("a network has one input, which is its first node")),
            Self::Conv2d { out_channels, kernel, geometry, .. } => {
                let [in_channels, in_height, in_width] = image(first)?;
                let sides = sides(geometry.padding);
                in_range(&[&kernel[..], &geometry.stride, &geometry.dilation, &sides, &[*out_channels]])?;
                let shape = Conv2dShape {
                    batch: 1,
                    in_channels,
                    in_height,
                    in_width,
                    out_channels: *out_channels,
                    kernel: *kernel,
                    stride: geometry.stride,
                    padding: geometry.padding,
                    dilation: geometry.dilation,
                    groups: geometry.groups,
                };
                shape.validate().map_err(Error::message)?;
                vec![*out_channels, shape.out_height(), shape.out_width()]
            }
            Self::Linear { out_features, .. } => match first {
                [_] => vec![*out_features],
                other => {
                    let message = format!("needs a flat input, not one of shape {other:?}; add flatten");
                    return Err(Error::message(message));
                }
            },
            Self::BatchNorm { .. } | Self::LayerNorm { .. } | Self::Activation(_) | Self::Clip => first.to_vec(),
            Self::Add => {
                if inputs[0] != inputs[1] {
                    return Err(Error::message(format!("cannot add {:?} and {:?}", inputs[0], inputs[1])));
                }
                first.to_vec()
            }
            Self::Mul => {
                let (a, b) = (inputs[0], inputs[1]);
                let fits = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || *b == 1);
                if !fits {
                    return Err(Error::message(format!("cannot multiply {a:?} by {b:?}")));
                }
                first.to_vec()
            }
            Self::MaxPool(geometry) | Self::AveragePool(geometry) => {
                let [channels, height, width] = image(first)?;
                let sides = sides(geometry.padding);
                in_range(&[&geometry.kernel[..], &geometry.stride, &sides])?;
                let shape = geometry.of_planes(channels, height, width)?;
                vec![channels, shape.out_height(), shape.out_width()]
            }
            Self::GlobalAveragePool => vec![image(first)?[0], 1, 1],
            Self::Pad(padding) => {
                let [channels, height, width] = image(first)?;
                in_range(&[&sides(*padding)])?;
                let [height, width] = padding.padded(height, width);
                vec![channels, height, width]
            }
            Self::Concat => {
                if first.is_empty() || inputs.iter().any(|s| s.get(1..) != first.get(1..)) {
                    return Err(Error::message(format!("cannot concatenate {inputs:?} along the channels")));
                }
                let channels = inputs.iter().map(|s| s[0]).sum();
                [&[channels], &first[1..]].concat()
            }
            Self::Slice { start, count } => {
                let channels = first.first().copied().unwrap_or_default();
                if start.checked_add(*count).is_none_or(|end| end > channels) {
                    let message = format!("cannot take {count} channels from channel {start} on, there are {channels}");
                    return Err(Error::message(message));
                }
                [&[*count], &first[1..]].concat()
            }
            Self::ShuffleChannels { groups } => {
                let [channels, ..] = image(first)?;
                if *groups == 0 || !channels.is_multiple_of(*groups) {
                    let message = format!("{channels} channels cannot be shuffled in {groups} equal groups");
                    return Err(Error::message(message));
                }
                first.to_vec()
            }
            Self::Flatten => vec![elements(first)?],
            Self::UpsampleNearest { factor } => {
                let [channels, height, width] = image(first)?;
                in_range(&[factor])?;
                vec![channels, height * factor[0], width * factor[1]]
            }
            Self::Custom(operator) => operator.shape().to_vec(),
        };
        if shape.contains(&0) {
            return Err(Error::message(format!("its value would be empty: {shape:?}; is the input image too small?")));
        }
        elements(&shape)?;
        Ok(shape)
    }

    fn check_count(&self, given: usize) -> Result<()> {
        let fits = match self {
            Self::Input => given == 0,
            Self::Add | Self::Mul => given == 2,
            Self::Concat => given > 0,
            Self::Custom(_) => true,
            Self::Conv2d { .. }
            | Self::Linear { .. }
            | Self::BatchNorm { .. }
            | Self::LayerNorm { .. }
            | Self::Activation(_)
            | Self::Clip
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Pad(_)
            | Self::Slice { .. }
            | Self::ShuffleChannels { .. }
            | Self::Flatten
            | Self::UpsampleNearest { .. } => given == 1,
        };
        match fits {
            true => Ok(()),
            false => Err(Error::message(format!("{} does not take {given} inputs", self.name()))),
        }
    }
}

fn image(shape: &[usize]) -> Result<[usize; 3]> {
    shape
        .try_into()
        .map_err(|_| Error::message(format!("needs an image (C, H, W), but its input has the shape {shape:?}")))
}

/// All four sides of a padding.
fn sides(padding: Padding) -> Vec<usize> {
    [0, 1].map(|axis| padding.along(axis)).concat()
}

fn in_range(sizes: &[&[usize]]) -> Result<()> {
    match sizes.iter().copied().flatten().find(|size| **size > LARGEST) {
        Some(size) => Err(Error::message(format!("a size of {size} is more than {LARGEST}"))),
        None => Ok(()),
    }
}

/// Number of elements of a value of this shape.
fn elements(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    count.filter(|count| *count <= LARGEST).ok_or_else(|| {
        Error::message(format!("its value would have the shape {shape:?}, which is more than {LARGEST} elements"))
    })
}
