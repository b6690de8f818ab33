//! Where a step reads its images from.

use super::images::Images;
use crate::cache::{CachedValues, Reservation};
use crate::engine::samples::UnitSamples;
use crate::error::{Error, Result};
use qdrop_kernels::drop::{Keep, Mixing};
use qdrop_kernels::nhwc::{from_planes, stage, Buffer, Layout};
use std::sync::Arc;

/// Cached values of all samples.
enum Source {
    /// Already channels-last, as the step needs them, one image after the other, and where each one begins.
    Nhwc(Buffer, Vec<usize>, #[allow(dead_code, reason = "held for its drop")] Reservation),
    /// As they are cached; every step converts what it reads to channels-last in the buffer.
    Planes(Arc<CachedValues>, Buffer),
}

/// The layout of one image (C, H, W) or of flat features.
fn one(shape: &[usize]) -> Result<Layout> {
    let (channels, height, width) = match *shape {
        [channels, height, width] => (channels, height, width),
        [features] => (features, 1, 1),
        _ => return Err(Error::message(format!("cached values of the shape {shape:?} for a chain of images"))),
    };
    Ok(Layout { batch: 1, height, width, channels, border: 0 })
}

impl Source {
    /// Converts all samples to channels-last once, if the cache's budget has room for a second copy. Otherwise there is room for
    /// a chunk of so many images.
    fn new(cached: &Arc<CachedValues>, chunk: usize) -> Result<Self> {
        let len = cached.elements();
        let Some(reservation) = cached.reserve((len * 4) as u64) else {
            return Ok(Self::Planes(cached.clone(), Buffer::zeros(chunk * cached.largest())));
        };
        let mut all = Buffer::zeros(len);
        let (mut rest, mut starts): (&mut [f32], _) = (&mut all, Vec::with_capacity(cached.samples()));
        for sample in 0..cached.samples() {
            let layout = one(cached.shape_of(sample)?)?;
            starts.push(len - rest.len());
            let (out, more) = rest.split_at_mut(layout.image());
            cached.with_sample(sample, |planes| from_planes(planes, layout, out))?;
            rest = more;
        }
        Ok(Self::Nhwc(all, starts, reservation))
    }

    /// The given samples as images of this layout.
    fn images<'a>(&'a mut self, samples: &'a [usize], layout: Layout) -> Result<Batch<'a>> {
        let size = layout.image();
        match self {
            Self::Nhwc(values, starts, _) => Ok(Batch { values, places: Some((samples, starts)), size }),
            Self::Planes(cached, room) => {
                let one = Layout { batch: 1, ..layout };
                if room.len() < samples.len() * size {
                    *room = Buffer::zeros(samples.len() * size);
                }
                for (sample, out) in samples.iter().zip(room.chunks_exact_mut(size)) {
                    cached.with_sample(*sample, |planes| from_planes(planes, one, out))?;
                }
                Ok(Batch { values: room, places: None, size })
            }
        }
    }
}

/// Images of some samples, without border.
pub struct Batch<'a> {
    values: &'a [f32],
    /// Indices of the images, and where all samples begin; `None` when the images are in order.
    places: Option<(&'a [usize], &'a [usize])>,
    size: usize,
}

impl Batch<'_> {
    pub fn image(&self, index: usize) -> &[f32] {
        let start = self.places.map_or(index * self.size, |(samples, starts)| starts[samples[index]]);
        &self.values[start..][..self.size]
    }
}

/// The cached inputs and outputs of a unit.
pub struct Samples {
    quantized_input: Source,
    float_input: Source,
    float_output: Source,
    /// Where the shape of a sample's input is asked for.
    cached: Arc<CachedValues>,
    /// Layouts of the images of a step.
    input: Layout,
    output: Layout,
    /// The range to which the loss clips the output and its target.
    pub range: [f32; 2],
}

impl Samples {
    /// Prepares the samples for inputs and outputs of these layouts.
    pub fn new(samples: &UnitSamples, input: Layout, output: Layout) -> Result<Self> {
        let [input, output] = [input, output].map(|layout| Layout { border: 0, ..layout });
        // A chain has one input and one output.
        let source = |values: &[Arc<CachedValues>]| match values {
            [one] => Source::new(one, input.batch),
            _ => Err(Error::message(format!("cached values of {} values for a chain, which has one", values.len()))),
        };
        Ok(Self {
            quantized_input: source(&samples.quantized_inputs)?,
            float_input: source(&samples.float_inputs)?,
            float_output: source(&samples.float_outputs)?,
            cached: samples.quantized_inputs[0].clone(),
            input,
            output,
            range: samples.range(0),
        })
    }

    /// The shape of the inputs of some samples.
    ///
    /// # Errors
    /// They differ, or a sample does not exist.
    pub fn shape(&self, samples: &[usize]) -> Result<&[usize]> {
        let Some((first, others)) = samples.split_first() else {
            return Err(Error::message("a step without samples"));
        };
        let shape = self.cached.shape_of(*first)?;
        for other in others {
            let other = self.cached.shape_of(*other)?;
            if other != shape {
                let message = format!("the samples of a step have the shapes {shape:?} and {other:?}");
                return Err(Error::message(message));
            }
        }
        Ok(shape)
    }

    /// Goes over to inputs and outputs of other layouts.
    pub fn reshape(&mut self, input: Layout, output: Layout) {
        [self.input, self.output] = [input, output].map(|layout| Layout { border: 0, ..layout });
    }

    /// Reads inputs and mixes them into `x`; `first` is the number of images before them in the batch.
    pub fn mixed_input(&mut self, samples: &[usize], mixing: Mixing<'_>, first: usize, x: &mut Images) -> Result<()> {
        let layout = self.input;
        let quantized = self.quantized_input.images(samples, layout)?;
        let full = match mixing {
            // The float values are not used, so they need not be read.
            Mixing::Chosen(Keep::All) => None,
            _ => Some(self.float_input.images(samples, layout)?),
        };
        let full = full.as_ref().unwrap_or(&quantized);
        let rows = (mixing, first * layout.height);
        stage::mix(&|i| [quantized.image(i), full.image(i)], layout, rows, x.write());
        Ok(())
    }

    /// The target outputs, and the layout of each image.
    pub fn outputs<'a>(&'a mut self, samples: &'a [usize]) -> Result<(Batch<'a>, Layout)> {
        let layout = self.output;
        Ok((self.float_output.images(samples, layout)?, layout))
    }
}
