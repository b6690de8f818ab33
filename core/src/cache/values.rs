//! One value of the network for all samples.

use super::spill::SpillFile;
use super::{CacheBudget, CacheType, Reservation, CACHED_BATCH};
use crate::error::{Error, Result, TensorContext};
use crate::ops::{f32_values, host_values};
use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::sync::Arc;

/// One value of the network for all samples. It is divided into parts of equally many samples (the last may have
/// fewer), and each part is in memory or in a file. Samples of all parts have one shape, unless the parts are groups.
#[derive(Debug)]
pub struct CachedValues {
    budget: Arc<CacheBudget>,
    device: Device,
    parts: Vec<Part>,
    spill: Option<SpillFile>,
    /// Samples of every part except the last.
    part_size: usize,
    samples: usize,
    /// Samples of a group, if parts are groups.
    group: Option<usize>,
}

#[derive(Debug)]
struct Part {
    /// Shape of one sample.
    shape: Vec<usize>,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Memory(Tensor, #[allow(dead_code, reason = "held for its drop")] Reservation),
    File { offset: u64 },
}

impl CachedValues {
    /// An empty value without samples.
    pub fn new(budget: Arc<CacheBudget>, device: Device) -> Self {
        Self { budget, device, parts: Vec::new(), spill: None, part_size: 0, samples: 0, group: None }
    }

    /// The same without samples, for groups of so many, if a number is given: every part is one, and their samples may differ in
    /// shape from group to group.
    pub fn in_groups(self, size: impl Into<Option<usize>>) -> Self {
        Self { group: size.into(), ..self.empty_like() }
    }

    /// An empty value without samples, of the same budget and on the same device, in such groups as this one.
    pub fn empty_like(&self) -> Self {
        Self { group: self.group, ..Self::new(self.budget.clone(), self.device.clone()) }
    }

    /// The size of groups. Samples `i * size` to `(i + 1) * size - 1` have one shape, those of different groups may not. `None`
    /// if all samples have one shape.
    pub fn group(&self) -> Option<usize> {
        self.group
    }

    /// Samples that are computed together: a group, or [`CACHED_BATCH`].
    pub fn together(&self) -> usize {
        self.group.unwrap_or(CACHED_BATCH)
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

    /// Shape of a sample.
    ///
    /// # Errors
    /// There is no such sample.
    pub fn shape_of(&self, sample: usize) -> Result<&[usize]> {
        self.check(sample)?;
        Ok(&self.parts[sample / self.part_size].shape)
    }

    /// Elements of the largest sample; 0 without samples.
    pub fn largest(&self) -> usize {
        self.parts.iter().map(|part| part.shape.iter().product()).max().unwrap_or(0)
    }

    /// Elements of all samples.
    pub fn elements(&self) -> usize {
        let part = |(i, part): (usize, &Part)| self.count_in(i) * part.shape.iter().product::<usize>();
        self.parts.iter().enumerate().map(part).sum()
    }

    /// Bytes in files, because they did not fit into the memory budget.
    pub fn spilled_bytes(&self) -> u64 {
        let parts = self.parts.iter().enumerate().filter(|(_, part)| matches!(part.kept, Kept::File { .. }));
        parts.map(|(i, part)| (self.count_in(i) * self.sample_bytes(&part.shape)) as u64).sum()
    }

    /// Samples of a part.
    fn count_in(&self, part: usize) -> usize {
        self.part_size.min(self.samples - part * self.part_size)
    }

    fn sample_bytes(&self, shape: &[usize]) -> usize {
        shape.iter().product::<usize>() * self.budget.kept_as.size()
    }

    fn check(&self, sample: usize) -> Result<()> {
        if sample >= self.samples {
            return Err(Error::message(format!("sample {sample} of {} cached ones does not exist", self.samples)));
        }
        Ok(())
    }

    /// Adds the samples of a tensor (N, ...). All calls except the last must add equally many; each adds one group, if there are
    /// groups.
    ///
    /// # Errors
    /// The shapes differ where there are no groups, a value does not fit the cached type, or the cache file cannot be written.
    pub fn push(&mut self, batch: &Tensor) -> Result<()> {
        let Some((&count, shape)) = batch.dims().split_first().filter(|(n, _)| **n > 0) else {
            return Err(Error::message("a batch without samples cannot be cached"));
        };
        let known = self.parts.first().map(|part| part.shape.as_slice());
        let (size, known) = (known.map_or(count, |_| self.part_size), known.unwrap_or(shape));
        let fits = match self.group {
            Some(group) => count == group && shape.len() == known.len(),
            None => shape == known && count <= size && self.samples.is_multiple_of(size),
        };
        if !fits {
            let size = self.group.unwrap_or(size);
            let message = format!("cached batches of {size} x {known:?} cannot take one of {count} x {shape:?}");
            return Err(Error::message(message));
        }
        self.part_size = size;
        let kept = match self.budget.kept_as {
            CacheType::F32 => batch.contiguous()?,
            CacheType::F16 => to_half(batch)?,
        };
        let bytes = (count * self.sample_bytes(shape)) as u64;
        let kept = match self.budget.reserve(bytes) {
            Some(reservation) => Kept::Memory(kept, reservation),
            None => {
                let bytes = to_bytes(&kept)?;
                let file = match &mut self.spill {
                    Some(file) => file,
                    None => self.spill.insert(SpillFile::create(&self.budget.spill)?),
                };
                Kept::File { offset: file.append(&bytes)? }
            }
        };
        self.parts.push(Part { shape: shape.to_vec(), kept });
        self.samples += count;
        Ok(())
    }

    /// The given samples in the given order, as f32 of shape (samples, ...).
    ///
    /// # Errors
    /// A sample does not exist, their shapes differ, or the cache file cannot be read.
    pub fn gather(&self, samples: &[usize]) -> Result<Tensor> {
        samples.iter().try_for_each(|sample| self.check(*sample))?;
        let rows: Vec<Tensor> = samples.par_iter().map(|s| self.row(*s)).collect::<Result<_>>()?;
        let batch = Tensor::cat(&rows, 0).doing("collecting cached values")?;
        batch.to_dtype(DType::F32).doing("reading cached values")
    }

    /// `count` samples from index `start` on, as f32.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather).
    pub fn range(&self, start: usize, count: usize) -> Result<Tensor> {
        match self.parts.get(start / self.part_size.max(1)).map(|part| &part.kept) {
            // A whole part, or the beginning of one, needs no copy.
            Some(Kept::Memory(values, _)) if start.is_multiple_of(self.part_size) && count <= values.dim(0)? => {
                Ok(values.narrow(0, 0, count)?.to_dtype(DType::F32)?)
            }
            _ => self.gather(&(start..start + count).collect::<Vec<_>>()),
        }
    }

    /// The first `count` samples, or all if there are fewer; of groups those of the first one.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather).
    pub fn first(&self, count: usize) -> Result<Tensor> {
        self.range(0, count.min(self.samples).min(self.group.unwrap_or(usize::MAX)))
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
        self.check(sample)?;
        let Part { shape, kept } = &self.parts[sample / self.part_size];
        match kept {
            // Without a copy.
            Kept::Memory(values, _) if values.dtype() == DType::F32 && values.device().is_cpu() => {
                let (len, within) = (shape.iter().product::<usize>(), sample % self.part_size);
                Ok(f32_values(values, |v| body(&v[within * len..][..len]))?)
            }
            _ => Ok(host_values(&self.row(sample)?, body)?),
        }
    }

    /// One sample of shape (1, ...), in the cached type.
    fn row(&self, sample: usize) -> Result<Tensor> {
        let within = sample % self.part_size;
        let Part { shape, kept } = &self.parts[sample / self.part_size];
        let offset = match kept {
            Kept::Memory(values, _) => return values.narrow(0, within, 1).doing("reading cached values"),
            Kept::File { offset } => *offset,
        };
        let file = self.spill.as_ref().ok_or_else(|| Error::message("the cache file is missing"))?;
        let mut bytes = vec![0; self.sample_bytes(shape)];
        file.read(offset + (within * bytes.len()) as u64, &mut bytes)?;
        let dims: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
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
pub(super) fn to_half(batch: &Tensor) -> Result<Tensor> {
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
        for (limit, spilled) in [(0, 240), (100, 96 + 48), (1000, 0)] {
            let budget = CacheBudget::new(limit, CacheType::F32, dir.path().into());
            let cached = fill(&budget, &all);
            assert_eq!(
                (cached.samples(), cached.shape_of(9).unwrap(), cached.spilled_bytes()),
                (10, &[2, 3][..], spilled)
            );
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
    fn groups_have_shapes_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let group = |height: usize| {
            let values = (0..2 * height * 3).map(|i| (i * height) as f32).collect();
            Tensor::from_vec(values, (2, height, 3), &Device::Cpu).unwrap()
        };
        // In memory, partly in a file, and all of it.
        for (limit, spilled) in [(1000, 0), (100, 48 + 120), (0, 96 + 48 + 120)] {
            let budget = CacheBudget::new(limit, CacheType::F32, dir.path().into());
            let mut cached = CachedValues::new(budget, Device::Cpu).in_groups(2);
            [4, 2, 5].iter().for_each(|height| cached.push(&group(*height)).unwrap());
            assert_eq!((cached.samples(), cached.largest(), cached.elements()), (6, 15, 66));
            assert_eq!((cached.shape_of(1).unwrap(), cached.shape_of(4).unwrap()), (&[4, 3][..], &[5, 3][..]));
            for (i, height) in [4, 2, 5].into_iter().enumerate() {
                assert_eq!(flat(&cached.range(2 * i, 2).unwrap()), flat(&group(height)));
                assert_eq!(flat(&cached.gather(&[2 * i + 1]).unwrap()), flat(&group(height).narrow(0, 1, 1).unwrap()));
            }
            assert!(cached.gather(&[1, 2]).is_err(), "two shapes in one tensor");
            assert!(cached.push(&group(4).narrow(0, 0, 1).unwrap()).is_err(), "half a group");
            assert_eq!(cached.spilled_bytes(), spilled);
        }
    }

    #[test]
    fn an_unusable_folder_is_named() {
        let budget = CacheBudget::new(0, CacheType::F32, "/dev/null/cache".into());
        let error = CachedValues::new(budget, Device::Cpu).push(&values(1)).unwrap_err().to_string();
        assert!(error.contains("cannot create the cache folder /dev/null/cache"), "{error}");
    }
}
