//! CUDA devices: memory, kernels of our own (`core/cuda/`), and the library's convolutions.
//!
//! The fused engine and forward passes ask of a device only what [`Device`] says, so that tests run them without a GPU on an
//! emulation of the kernels.

#[doc(hidden)]
pub mod abi;
pub(crate) mod convolution;
pub(crate) mod device;
#[cfg(feature = "cuda")]
mod driver;
#[doc(hidden)]
pub mod kernels;
mod source;

pub use device::{Argument, Buffer, Device, HostMemory, LibraryConvolution, Memory, Pass, Recording};
#[cfg(feature = "cuda")]
pub use driver::Gpu;
#[cfg(feature = "cuda")]
pub(crate) use driver::{missing, survey};
pub use source::{OPTIONS, SOURCE};

use crate::error::Result;
use std::sync::Arc;

/// The device on which candle's device computes; `None` for the CPU.
///
/// # Errors
/// The kernels cannot be compiled or loaded.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "only a GPU is opened"))]
pub fn of(device: &candle_core::Device) -> Result<Option<Arc<dyn Device>>> {
    match device {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => Ok(Some(Gpu::of(device)? as Arc<dyn Device>)),
        _ => Ok(None),
    }
}
