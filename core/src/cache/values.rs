//! One value of the network for all samples.

use super::spill::SpillFile;
use super::{CacheBudget, CacheType, Reservation};
use crate::error::{Error, Result, TensorContext};
use crate::ops::{f32_values, host_values};
use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::sync::Arc;

/// One value of the network for all samples. It is divided into parts of equally many samples (the last may have
/// fewer), and each part is in memory or in a file.
#[derive(Debug)]
pub struct CachedValues {
    budget: Arc<CacheBudget>,
    device: Device,
    parts: Vec<Part>,
    spill: Option<SpillFile>,
    /// Samples of every part except the last.
    part_size: usize,
    samples: usize,
    /// Shape of one sample.
    shape: Vec<usize>,
}

#[derive(Debug)]
enum Part {
    Memory(Tensor, #[allow(dead_code, reason = "held for its drop")] Reservation),
    File { offset: u64 },
}

impl CachedValues {
    /// An empty value without samples.
    pub fn new(budget: Arc<CacheBudget>, device: Device) -> Self {
        Self { budget, device, parts: Vec::new(), spill: None, part_size: 0, samples: 0, shape: Vec::new() }
    }

    /// An empty value without samples, of the same budget and on the same device.
    pub fn empty_like(&self) -> Self {
        Self::new(self.budget.clone(), self.device.clone())
    }

    /// All samples of a tensor (N, ...), in memory and unchanged.
    ///
    /// # Errors
    /// The tensor has no sample.
    pub fn in_memory(values: &Tensor) -> Result<Arc<Self>> {
        let mut all = Self::new(CacheBudget::unlimited(), values.device().clone());
        all.push(values)?;
        Ok(Arc::new(all))
    }

    /// The device of gathered samples.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Shape of one sample.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes in files, because they did not fit into the memory budget.
    pub fn spilled_bytes(&self) -> u64 {
        let parts = self.parts.iter().filter(|p| matches!(p, Part::File { .. })).count();
        (parts * self.part_size.min(self.samples) * self.sample_bytes()) as u64
    }

    fn sample_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.budget.kept_as.size()
    }

    /// Adds the samples of a tensor (N, ...). All calls except the last must add equally many.
    ///
    /// # Errors
    /// The shapes differ, a value does not fit the cached type, or the cache file cannot be written.
    pub fn push(&mut self, batch: &Tensor) -> Result<()> {
        let Some((&count, shape)) = batch.dims().split_first().filter(|(n, _)| **n > 0) else {
            return Err(Error::message("a batch without samples cannot be cached"));
        };
        if self.parts.is_empty() {
            (self.part_size, self.shape) = (count, shape.to_vec());
        } else if shape != self.shape || count > self.part_size || !self.samples.is_multiple_of(self.part_size) {
            let message = format!(
                "cached batches of {} x {:?} cannot take one of {count} x {shape:?}",
                self.part_size, self.shape
            );
            return Err(Error::message(message));
        }
        let kept = match self.budget.kept_as {
            CacheType::F32 => batch.contiguous()?,
            CacheType::F16 => to_half(batch)?,
        };
        let bytes = (count * self.sample_bytes()) as u64;
        let part = match self.budget.reserve(bytes) {
            Some(reservation) => Part::Memory(kept, reservation),
            None => {
                let bytes = to_bytes(&kept)?;
                let file = match &mut self.spill {
                    Some(file) => file,
                    None => self.spill.insert(SpillFile::create(&self.budget.spill)?),
                };
                Part::File { offset: file.append(&bytes)? }
            }
        };
        self.parts.push(part);
        self.samples += count;
        Ok(())
    }

    /// The given samples in the given order, as f32 of shape (samples, ...).
    ///
    /// # Errors
    /// A sample does not exist, or the cache file cannot be read.
    pub fn gather(&self, samples: &[usize]) -> Result<Tensor> {
        if let Some(missing) = samples.iter().find(|s| **s >= self.samples) {
            return Err(Error::message(format!("sample {missing} of {} cached ones does not exist", self.samples)));
        }
        let rows: Vec<Tensor> = samples.par_iter().map(|s| self.row(*s)).collect::<Result<_>>()?;
        let batch = Tensor::cat(&rows, 0).doing("collecting cached values")?;
        batch.to_dtype(DType::F32).doing("reading cached values")
    }

    /// `count` samples from index `start` on, as f32.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather).
    pub fn range(&self, start: usize, count: usize) -> Result<Tensor> {
        match self.parts.get(start / self.part_size.max(1)) {
            // A whole part, or the beginning of one, needs no copy.
            Some(Part::Memory(values, _)) if start.is_multiple_of(self.part_size) && count <= values.dim(0)? => {
                Ok(values.narrow(0, 0, count)?.to_dtype(DType::F32)?)
            }
            _ => self.gather(&(start..start + count).collect::<Vec<_>>()),
        }
    }

    /// Reserves `bytes` of the same budget for values derived from these; `None` if fewer are left.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        self.budget.reserve(bytes)
    }

    /// Calls `body` with the values of one sample.
    ///
    /// # Errors
    /// The sample does not exist, or the cache file cannot be read.
    pub fn with_sample<R>(&self, sample: usize, body: impl FnOnce(&[f32]) -> R) -> Result<R> {
        if sample >= self.samples {
            return Err(Error::message(format!("sample {sample} of {} cached ones does not exist", self.samples)));
        }
        match &self.parts[sample / self.part_size] {
            // Without a copy.
            Part::Memory(values, _) if values.dtype() == DType::F32 && values.device().is_cpu() => {
                let (len, within) = (self.shape.iter().product::<usize>(), sample % self.part_size);
                Ok(f32_values(values, |v| body(&v[within * len..][..len]))?)
            }
            _ => Ok(host_values(&self.row(sample)?, body)?),
        }
    }

    /// One sample of shape (1, ...), in the cached type.
    fn row(&self, sample: usize) -> Result<Tensor> {
        let within = sample % self.part_size;
        let offset = match &self.parts[sample / self.part_size] {
            Part::Memory(values, _) => return values.narrow(0, within, 1).doing("reading cached values"),
            Part::File { offset } => *offset,
        };
        let file = self.spill.as_ref().ok_or_else(|| Error::message("the cache file is missing"))?;
        let mut bytes = vec![0; self.sample_bytes()];
        file.read(offset + (within * self.sample_bytes()) as u64, &mut bytes)?;
        let dims: Vec<usize> = std::iter::once(1).chain(self.shape.iter().copied()).collect();
        let row = match self.budget.kept_as {
            CacheType::F32 => {
                let values: Vec<f32> =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                Tensor::from_vec(values, dims, &self.device)
            }
            CacheType::F16 => {
                let values: Vec<f16> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
                Tensor::from_vec(values, dims, &self.device)
            }
        };
        row.doing("reading cached values")
    }
}

/// Rounds to f16, where the values are.
fn to_half(batch: &Tensor) -> Result<Tensor> {
    let too_large = || {
        let message = "a value is larger than f16 can hold (65504); use `f32`";
        Error::setting("cache.dtype", message)
    };
    if !batch.device().is_cpu() {
        let halves = batch.contiguous()?.to_dtype(DType::F16)?;
        // No multiple of an infinity is zero.
        let finite = (&halves * 0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0;
        return if finite { Ok(halves) } else { Err(too_large()) };
    }
    let halves = host_values(batch, |values| {
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        halves
    })?;
    if halves.iter().any(|h| !h.is_finite()) {
        return Err(too_large());
    }
    Ok(Tensor::from_vec(halves, batch.dims(), batch.device())?)
}

fn to_bytes(kept: &Tensor) -> Result<Vec<u8>> {
    if kept.dtype() == DType::F16 {
        let values: Vec<f16> = kept.flatten_all()?.to_vec1()?;
        return Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }
    Ok(host_values(kept, |values| values.iter().flat_map(|v| v.to_le_bytes()).collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn values(samples: usize) -> Tensor {
        let values: Vec<f32> = (0..samples * 6).map(|i| i as f32 * 0.37 - 11.0).collect();
        Tensor::from_vec(values, (samples, 2, 3), &Device::Cpu).unwrap()
    }

    fn fill(budget: &Arc<CacheBudget>, all: &Tensor) -> CachedValues {
        let mut cached = CachedValues::new(budget.clone(), Device::Cpu);
        for start in (0..all.dim(0).unwrap()).step_by(4) {
            let count = 4.min(all.dim(0).unwrap() - start);
            cached.push(&all.narrow(0, start, count).unwrap()).unwrap();
        }
        cached
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn memory_and_file_hold_the_same_values() {
        let all = values(10);
        let dir = tempfile::tempdir().unwrap();
        // Memory for nothing, for one part (4 samples of 24 bytes), and for everything.
        for (limit, spilled) in [(0, 3 * 96), (100, 2 * 96), (1000, 0)] {
            let budget = CacheBudget::new(limit, CacheType::F32, dir.path().into());
            let cached = fill(&budget, &all);
            assert_eq!((cached.samples(), cached.shape(), cached.spilled_bytes()), (10, &[2, 3][..], spilled));
            let picked = cached.gather(&[9, 0, 5, 5]).unwrap();
            let want = all.index_select(&Tensor::new(&[9_u32, 0, 5, 5], &Device::Cpu).unwrap(), 0).unwrap();
            assert_eq!((picked.dims(), flat(&picked)), (want.dims(), flat(&want)));
            for (start, count) in [(4, 4), (8, 2), (2, 7)] {
                assert_eq!(flat(&cached.range(start, count).unwrap()), flat(&all.narrow(0, start, count).unwrap()));
            }
            assert!(cached.gather(&[10]).unwrap_err().to_string().contains("sample 10 of 10"));
            drop(cached);
            assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "cache files have no name");
    }

    #[test]
    fn half_precision_rounds_and_refuses_what_it_cannot_hold() {
        let all = values(10);
        let dir = tempfile::tempdir().unwrap();
        for limit in [0, 1000] {
            let budget = CacheBudget::new(limit, CacheType::F16, dir.path().into());
            let got = flat(&fill(&budget, &all).gather(&[7, 1]).unwrap());
            let want = [flat(&all.get(7).unwrap()), flat(&all.get(1).unwrap())].concat();
            assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= w.abs() / 2048.0), "{got:?} {want:?}");
            assert_ne!(got, want);
            let mut cached = CachedValues::new(budget, Device::Cpu);
            let error = cached.push(&(&all * 1e6).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with("cache.dtype: a value is larger than f16 can hold"), "{error}");
        }
    }

    #[test]
    fn batches_must_fit() {
        let mut cached = CachedValues::new(CacheBudget::unlimited(), Device::Cpu);
        cached.push(&values(4)).unwrap();
        assert!(cached.push(&values(5)).is_err());
        cached.push(&values(3)).unwrap();
        assert!(cached.push(&values(4)).is_err(), "after a short batch");
        let wide = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).unwrap();
        assert!(cached.push(&wide).is_err());
    }

    #[test]
    fn an_unusable_folder_is_named() {
        let budget = CacheBudget::new(0, CacheType::F32, "/dev/null/cache".into());
        let error = CachedValues::new(budget, Device::Cpu).push(&values(1)).unwrap_err().to_string();
        assert!(error.contains("cannot create the cache folder /dev/null/cache"), "{error}");
    }
}
