//! Where a fused step gets its images from.

use super::layer::Images;
use crate::cache::{CachedValues, Reservation};
use crate::error::Result;
use crate::reconstructor::UnitSamples;
use qdrop_kernels::drop::Keep;
use qdrop_kernels::nhwc::{copy_rows, from_planes, stage, Buffer, Layout};
use std::sync::Arc;

/// Cached values of all samples.
enum Source {
    /// With channels together, as the step needs them: an image after the other, without border.
    Together(Buffer, #[allow(dead_code, reason = "held for its drop")] Reservation),
    /// As they are cached; every step rearranges what it reads.
    Planes(Arc<CachedValues>),
}

impl Source {
    /// Rearranges all samples, if the cache's budget has room for a second copy.
    fn new(cached: &Arc<CachedValues>, layout: Layout) -> Result<Self> {
        let flat = Layout { batch: 1, border: 0, ..layout };
        let len = cached.samples() * flat.image();
        let Some(reservation) = cached.reserve((len * 4) as u64) else { return Ok(Self::Planes(cached.clone())) };
        let mut all = Buffer::zeros(len);
        for (sample, out) in all.chunks_exact_mut(flat.image()).enumerate() {
            cached.with_sample(sample, |planes| from_planes(planes, flat, out))?;
        }
        Ok(Self::Together(all, reservation))
    }

    /// Reads some samples into `images`.
    fn read(&self, samples: &[usize], images: &mut Images) -> Result<()> {
        let layout = images.layout;
        let flat = Layout { batch: 1, border: 0, ..layout };
        for (sample, out) in samples.iter().zip(images.values.chunks_exact_mut(layout.image())) {
            match self {
                Self::Together(all, _) => copy_rows((&all[sample * flat.image()..], flat), (out, layout)),
                Self::Planes(cached) => cached.with_sample(*sample, |planes| from_planes(planes, layout, out))?,
            }
        }
        Ok(())
    }
}

/// The samples of a unit.
pub struct Samples {
    quantized_input: Source,
    float_input: Source,
    float_output: Source,
}

impl Samples {
    /// The samples for inputs and outputs of these layouts.
    pub fn new(samples: &UnitSamples, input: Layout, output: Layout) -> Result<Self> {
        Ok(Self {
            quantized_input: Source::new(&samples.quantized_input, input)?,
            float_input: Source::new(&samples.float_input, input)?,
            float_output: Source::new(&samples.float_output, output)?,
        })
    }

    /// Reads inputs and mixes them into `x`; `scratch` has its layout, and `first` counts the images before.
    pub fn mixed_input(
        &self,
        samples: &[usize],
        keep: Keep<'_>,
        first: usize,
        x: &mut Images,
        scratch: &mut Images,
    ) -> Result<()> {
        if matches!(keep, Keep::All) {
            return self.quantized_input.read(samples, x);
        }
        self.float_input.read(samples, x)?;
        self.quantized_input.read(samples, scratch)?;
        stage::mix(&scratch.values, keep, first * x.layout.height, x.write());
        Ok(())
    }

    /// Reads outputs into `target`.
    pub fn outputs(&self, samples: &[usize], target: &mut Images) -> Result<()> {
        self.float_output.read(samples, target)
    }
}
