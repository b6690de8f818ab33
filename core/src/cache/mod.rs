//! Values of all calibration samples, kept within a memory budget.
//!
//! A network's activations for a thousand images are much larger than its weights. Values are kept
//! in memory until the budget is used up. The others go into a file, from which they are read batch by batch.

mod spill;
mod values;

pub use values::CachedValues;

use crate::error::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Samples in one part of cached values. Values advance through the network in batches of this size too.
pub const CACHED_BATCH: usize = 32;

/// The data type of cached values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// Unchanged f32.
    #[default]
    F32,
    /// f16: half the size, rounded to 11 significant bits.
    F16,
}

impl CacheType {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }

    /// Bytes of one value.
    pub fn size(self) -> usize {
        self.dtype().size_in_bytes()
    }
}

/// How much memory cached values may use, and where the others go.
#[derive(Debug)]
pub struct CacheBudget {
    limit: u64,
    kept_as: CacheType,
    spill: PathBuf,
    used: AtomicU64,
}

impl CacheBudget {
    /// Keeps at most `limit` bytes in memory and the rest in files in the folder `spill`.
    pub fn new(limit: u64, kept_as: CacheType, spill: PathBuf) -> Arc<Self> {
        Arc::new(Self { limit, kept_as, spill, used: AtomicU64::new(0) })
    }

    /// Keeps everything in memory, as f32.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, CacheType::F32, PathBuf::new())
    }

    /// A tensor as it is after it was kept.
    ///
    /// # Errors
    /// A value does not fit the cached type.
    pub(crate) fn rounded(&self, values: &Tensor) -> Result<Tensor> {
        match self.kept_as {
            CacheType::F32 => Ok(values.clone()),
            CacheType::F16 => Ok(values::to_half(values)?.to_dtype(DType::F32)?),
        }
    }

    /// Reserves `bytes` of the budget until the reservation is dropped; `None` if fewer are left.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        reserved.then(|| Reservation { budget: self.clone(), bytes })
    }
}

/// A reserved part of the budget, which is freed on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<CacheBudget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
