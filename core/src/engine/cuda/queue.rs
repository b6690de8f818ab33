//! Steps that the device computes without waiting for each other.

use crate::cuda::abi::Sums;
use crate::cuda::device::{Buffer, Device, Recording};
use crate::cuda::kernels;
use crate::error::Result;

/// Steps that are queued before their losses are read.
pub const TOGETHER: usize = 8;

/// The losses of queued steps, and the launches of one.
pub struct Queue {
    /// Sums of squared errors and regularizers, in pairs, and how many steps have left theirs.
    losses: Buffer<f64>,
    count: Buffer<u32>,
    /// The launches of a step.
    pub launches: Launches,
}

/// The launches of a step.
pub enum Launches {
    /// None has been made: libraries have yet to allocate what they need.
    First,
    /// They can be recorded.
    Warm,
    Recorded(Box<dyn Recording>),
    /// The device refuses to record them.
    Unrecorded,
}

impl Queue {
    pub fn new(device: &dyn Device) -> Result<Self> {
        let (losses, count) = (Buffer::zeros(device, 2 * TOGETHER)?, Buffer::zeros(device, 1)?);
        Ok(Self { losses, count, launches: Launches::First })
    }

    /// Forgets the losses of earlier steps.
    pub fn begin(&self, device: &dyn Device) -> Result<()> {
        self.count.write(device, 0, &[0])
    }

    /// Keeps the losses of a step.
    pub fn keep(&self, device: &dyn Device, totals: &Buffer<Sums>, term: &Buffer<f64>) -> Result<()> {
        kernels::keep_losses(device, totals, term, &self.losses, &self.count)
    }

    /// Waits for the queued steps, and reads their losses.
    pub fn losses(&self, device: &dyn Device) -> Result<Vec<[f64; 2]>> {
        let mut all = vec![0.0; 2 * TOGETHER];
        self.losses.read(device, &mut all)?;
        Ok(all.as_chunks().0.to_vec())
    }
}
