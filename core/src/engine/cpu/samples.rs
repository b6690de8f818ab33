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
    /// Already channels-last, as the step needs them, one image after the other.
    Nhwc(Buffer, #[allow(dead_code, reason = "held for its drop")] Reservation),
    /// As they are cached; every step converts what it reads to channels-last in the buffer.
    Planes(Arc<CachedValues>, Buffer),
}

impl Source {
    /// Converts all samples to channels-last once, if the cache's budget has room for a second copy. `layout` is that
    /// of a chunk, without border.
    fn new(cached: &Arc<CachedValues>, layout: Layout) -> Result<Self> {
        let one = Layout { batch: 1, ..layout };
        let len = cached.samples() * one.image();
        let Some(reservation) = cached.reserve((len * 4) as u64) else {
            return Ok(Self::Planes(cached.clone(), Buffer::zeros(layout.len())));
        };
        let mut all = Buffer::zeros(len);
        for (sample, out) in all.chunks_exact_mut(one.image()).enumerate() {
            cached.with_sample(sample, |planes| from_planes(planes, one, out))?;
        }
        Ok(Self::Nhwc(all, reservation))
    }

    /// The given samples as images of this layout.
    fn images<'a>(&'a mut self, samples: &'a [usize], layout: Layout) -> Result<Batch<'a>> {
        let size = layout.image();
        match self {
            Self::Nhwc(values, _) => Ok(Batch { values, numbers: Some(samples), size }),
            Self::Planes(cached, room) => {
                let one = Layout { batch: 1, ..layout };
                for (sample, out) in samples.iter().zip(room.chunks_exact_mut(size)) {
                    cached.with_sample(*sample, |planes| from_planes(planes, one, out))?;
                }
                Ok(Batch { values: room, numbers: None, size })
            }
        }
    }
}

/// Images of some samples, without border.
pub struct Batch<'a> {
    values: &'a [f32],
    /// Indices of the images; `None` when the images are in order.
    numbers: Option<&'a [usize]>,
    size: usize,
}

impl Batch<'_> {
    pub fn image(&self, index: usize) -> &[f32] {
        let number = self.numbers.map_or(index, |n| n[index]);
        &self.values[number * self.size..][..self.size]
    }
}

/// The cached inputs and outputs of a unit.
pub struct Samples {
    quantized_input: Source,
    float_input: Source,
    float_output: Source,
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
        let source = |values: &[Arc<CachedValues>], layout| match values {
            [one] => Source::new(one, layout),
            _ => Err(Error::message(format!("cached values of {} values for a chain, which has one", values.len()))),
        };
        Ok(Self {
            quantized_input: source(&samples.quantized_inputs, input)?,
            float_input: source(&samples.float_inputs, input)?,
            float_output: source(&samples.float_outputs, output)?,
            input,
            output,
            range: samples.range(0),
        })
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
