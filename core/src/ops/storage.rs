//! Access to the values in a tensor's storage.

use candle_core::{bail, CpuStorage, Layout, Result, Shape, Storage, Tensor};
use qdrop_kernels::segments::map_chunks;

/// The values of a contiguous f32 tensor's CPU storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("the operation needs a contiguous tensor"),
        _ => bail!("the operation needs f32 values"),
    }
}

/// Calls `body` with the values of a contiguous f32 CPU tensor.
pub(crate) fn f32_values<R>(x: &Tensor, body: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(body(slice(storage, layout)?)),
        _ => bail!("the operation needs a CPU tensor"),
    }
}

/// Calls `body` with the values of any tensor as f32. Copies them to the host unless they are contiguous
/// f32 values there already.
///
/// # Errors
/// An operation of candle fails.
pub fn host_values<R>(x: &Tensor, body: impl FnOnce(&[f32]) -> R) -> Result<R> {
    f32_values(&on_host(x)?, body)
}

/// The tensor as contiguous f32 values on the host; not a copy if it is that already.
fn on_host(x: &Tensor) -> Result<Tensor> {
    x.to_device(&candle_core::Device::Cpu)?.to_dtype(candle_core::DType::F32)?.contiguous()
}

/// Calls `body` with the values of several tensors as f32, copied only as [`host_values`] does.
pub(crate) fn all_host_values<R>(all: &[Tensor], body: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    let all = all.iter().map(on_host).collect::<Result<Vec<_>>>()?;
    let opened: Vec<_> = all.iter().map(Tensor::storage_and_layout).collect();
    let values = opened.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => slice(storage, layout),
        _ => bail!("the operation needs a CPU tensor"),
    });
    Ok(body(&values.collect::<Result<Vec<_>>>()?))
}

/// Adds the sums of the channels of (N, C) or (N, C, H, W) to `sums`, which is empty or has one for each channel. Returns the number of
/// elements of a channel.
///
/// # Errors
/// The tensor has other dimensions.
pub fn add_channel_sums(x: &Tensor, sums: &mut Vec<f64>) -> Result<usize> {
    let (images, channels) = x.dims2().or_else(|_| x.dims4().map(|(n, c, ..)| (n, c)))?;
    sums.resize(channels, 0.0);
    host_values(x, |values| {
        let pixels = values.len() / (images * channels).max(1);
        let planes = map_chunks(values, pixels.max(1), |_, plane| plane.iter().map(|v| f64::from(*v)).sum::<f64>());
        // One after the other, so that the sums do not depend on the threads.
        planes.iter().enumerate().for_each(|(i, sum)| sums[i % channels] += sum);
        images * pixels
    })
}

/// The storage and the shape that a forward pass returns.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// A gradient with the shape of `like`; `body` fills it.
pub(crate) fn gradient(like: &Tensor, body: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Tensor> {
    let mut values = vec![0.0; like.elem_count()];
    body(&mut values)?;
    Tensor::from_vec(values, like.shape(), like.device())
}
