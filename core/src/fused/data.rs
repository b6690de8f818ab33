//! The chunk of images that a fused step works on.

use super::layer::Images;
use crate::cache::CachedValues;
use crate::error::Result;
use qdrop_kernels::drop::Keep;
use qdrop_kernels::nhwc::{from_planes, stage};

/// Reads cached values of some samples into `images`.
pub fn read(cached: &CachedValues, samples: &[usize], images: &mut Images) -> Result<()> {
    let layout = images.layout;
    for (sample, out) in samples.iter().zip(images.values.chunks_exact_mut(layout.image())) {
        cached.with_sample(*sample, |planes| from_planes(planes, layout, out))?;
    }
    Ok(())
}

/// Reads cached inputs and mixes them into `x`; `scratch` has its layout, and `first` counts the images
/// before.
pub fn mixed_input(
    (quantized, full): (&CachedValues, &CachedValues),
    samples: &[usize],
    keep: Keep<'_>,
    first: usize,
    x: &mut Images,
    scratch: &mut Images,
) -> Result<()> {
    if matches!(keep, Keep::All) {
        return read(quantized, samples, x);
    }
    read(full, samples, x)?;
    read(quantized, samples, scratch)?;
    let first_row = first * x.layout.height;
    stage::mix(&scratch.values, keep, first_row, x.write());
    Ok(())
}
