//! The values of each channel, where observers look for a range: on the host, or on a GPU without a copy to the host.

use crate::cuda::device::{Buffer, Device};
use crate::cuda::kernels;
use crate::error::{Error, Result};
use crate::grid::Granularity;
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::range_search::{error, min_max, search, Bounds, Candidate};
use qdrop_kernels::segments::map_chunks;
use std::sync::Arc;

/// The values of a tensor's channels as rows, or all values as one row.
pub enum Rows {
    /// Rows (channels, values) on the host.
    Host(Tensor),
    /// One row on a device.
    Device(OnDevice),
}

/// Values on a device.
pub struct OnDevice {
    device: Arc<dyn Device>,
    values: Buffer<f32>,
}

/// One row of values, one at least.
#[derive(Clone, Copy)]
pub enum Row<'a> {
    /// On the host.
    Host(&'a [f32]),
    /// On a device.
    Device(&'a OnDevice),
}

impl Rows {
    /// The rows of a tensor. All values of a tensor on a GPU stay there; the channels of one, which is a weight, are copied.
    ///
    /// # Errors
    /// The tensor has no such axis, or no value, or cannot be copied.
    pub fn new(x: &Tensor, granularity: Granularity) -> Result<Self> {
        match crate::cuda::of(x.device())? {
            Some(device) if granularity == Granularity::PerTensor => Self::on(device, x),
            _ => Self::on_host(x, granularity),
        }
    }

    /// All values of a tensor on a CUDA device: a GPU where the tensor is, or one that computes with tensors of the CPU.
    ///
    /// # Errors
    /// The tensor has no value, or cannot be copied.
    pub fn on(device: Arc<dyn Device>, x: &Tensor) -> Result<Self> {
        check(x)?;
        let values = Buffer::zeros(&*device, x.elem_count())?;
        values.copy(&*device, &x.contiguous()?)?;
        Ok(Self::Device(OnDevice { device, values }))
    }

    fn on_host(x: &Tensor, granularity: Granularity) -> Result<Self> {
        check(x)?;
        Ok(Self::Host(match granularity {
            Granularity::PerTensor => x.reshape((1, x.elem_count()))?,
            Granularity::PerAxis(axis) if axis < x.rank() => {
                let x = if axis == 0 { x.clone() } else { x.transpose(0, axis)? };
                x.contiguous()?.flatten_from(1)?
            }
            Granularity::PerAxis(axis) => {
                return Err(Error::message(format!("a tensor of shape {:?} has no axis {axis}", x.dims())))
            }
        }))
    }

    /// Smallest and largest value of each row.
    ///
    /// # Errors
    /// The values cannot be read.
    pub fn extremes(&self) -> Result<Vec<(f32, f32)>> {
        self.map(|_, row| row.extremes())
    }

    /// Calls `body` with each row and its number, in parallel.
    ///
    /// # Errors
    /// The values cannot be read; those of `body`.
    pub fn map<R: Send>(&self, body: impl Fn(usize, Row<'_>) -> Result<R> + Sync + Send) -> Result<Vec<R>> {
        match self {
            Self::Device(row) => Ok(vec![body(0, Row::Device(row))?]),
            Self::Host(rows) => {
                let width = rows.dim(1)?;
                host_values(rows, |values| map_chunks(values, width, |i, row| body(i, Row::Host(row))))?
                    .into_iter()
                    .collect()
            }
        }
    }
}

fn check(x: &Tensor) -> Result<()> {
    match x.elem_count() {
        0 => Err(Error::message(format!("a tensor of shape {:?} has no value to observe", x.dims()))),
        _ => Ok(()),
    }
}

impl Row<'_> {
    /// Smallest and largest value.
    fn extremes(self) -> Result<(f32, f32)> {
        match self {
            Self::Host(values) => Ok(min_max(values)),
            Self::Device(row) => {
                let found = kernels::extremes(&*row.device, &row.values)?;
                Ok((found.low, found.high))
            }
        }
    }

    /// The first of the candidates with the least error, and that error: the mean of `|fake_quantize(x) - x|^p`. `None` without
    /// candidates. Devices add up errors in another order, so they may choose another one of two that are as good.
    ///
    /// # Errors
    /// The values cannot be read.
    pub fn search(self, candidates: &[Candidate], bounds: Bounds) -> Result<Option<(usize, f64)>> {
        match self {
            Self::Host(values) => Ok(search(values, candidates, bounds)),
            Self::Device(row) => {
                let errors = row.errors(candidates, bounds)?.into_iter().enumerate();
                Ok(errors.reduce(|best, other| if other.1 < best.1 { other } else { best }))
            }
        }
    }

    /// The error of one candidate: the mean of `|fake_quantize(x) - x|^p`.
    ///
    /// # Errors
    /// The values cannot be read.
    pub fn error(self, candidate: Candidate, bounds: Bounds) -> Result<f64> {
        match self {
            Self::Host(values) => Ok(error(values, candidate, bounds)),
            Self::Device(row) => Ok(row.errors(&[candidate], bounds)?[0]),
        }
    }
}

impl OnDevice {
    fn errors(&self, candidates: &[Candidate], bounds: Bounds) -> Result<Vec<f64>> {
        let sums = kernels::errors(&*self.device, &self.values, candidates, bounds)?;
        Ok(sums.into_iter().map(|sum| sum / self.values.len() as f64).collect())
    }
}
