//! Values of all calibration samples, kept within a memory budget.
//!
//! A network's activations for a thousand images are many times larger than its weights. Values go
//! into memory until the budget is used up, then into a file; they are read back batch by batch.

mod spill;
mod values;

pub use values::CachedValues;

use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Samples of one part of cached values, and of one forward pass while they move through the network.
pub const CACHED_BATCH: usize = 32;

/// The type that cached values are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// As computed.
    #[default]
    F32,
    /// Half the size; rounded to 11 significant bits.
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

/// How much memory cached values may take, and where the rest goes.
#[derive(Debug)]
pub struct CacheBudget {
    limit: u64,
    kept_as: CacheType,
    spill: PathBuf,
    used: AtomicU64,
}

impl CacheBudget {
    /// At most `limit` bytes in memory, the rest in files of the folder `spill`.
    pub fn new(limit: u64, kept_as: CacheType, spill: PathBuf) -> Arc<Self> {
        Arc::new(Self { limit, kept_as, spill, used: AtomicU64::new(0) })
    }

    /// Everything in memory, as computed.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX, CacheType::F32, PathBuf::new())
    }

    /// Takes `bytes` of the budget until the reservation is dropped; `None` when they are not left.
    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        reserved.then(|| Reservation { budget: self.clone(), bytes })
    }
}

/// A share of the budget, given back on drop.
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
