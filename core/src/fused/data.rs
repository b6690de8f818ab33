//! The chunk of images that a fused step works on.

use super::layer::Images;
use crate::cache::CachedValues;
use crate::error::Result;
use qdrop_kernels::drop::Keep;
use qdrop_kernels::nhwc::stage::mix_planes;

/// Reads cached inputs, mixes them and writes them into `x`; `first` counts the images before.
pub fn mixed_input(
    quantized: &CachedValues,
    full: &CachedValues,
    samples: &[usize],
    keep: Keep<'_>,
    first: usize,
    x: &mut Images,
) -> Result<()> {
    let layout = x.layout;
    for ((i, sample), out) in samples.iter().enumerate().zip(x.values.chunks_exact_mut(layout.image())) {
        let first_row = (first + i) * layout.height;
        quantized.with_sample(*sample, |q| {
            full.with_sample(*sample, |f| mix_planes(q, f, keep, first_row, (out, layout)))
        })??;
    }
    Ok(())
}

/// Reads cached outputs into `target`.
pub fn outputs(cached: &CachedValues, samples: &[usize], target: &mut Images) -> Result<()> {
    let layout = target.layout;
    for (sample, out) in samples.iter().zip(target.values.chunks_exact_mut(layout.image())) {
        cached.with_sample(*sample, |values| mix_planes(values, values, Keep::All, 0, (out, layout)))?;
    }
    Ok(())
}
