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

pub use device::{Argument, Buffer, Device, HostMemory, LibraryConvolution, Memory, Pass, Recording};
#[cfg(feature = "cuda")]
pub use driver::Gpu;
#[cfg(feature = "cuda")]
pub(crate) use driver::{missing, survey};

use crate::error::Result;
use std::sync::Arc;

/// The source of all kernels: CUDA C++ that includes nothing.
pub const SOURCE: &str = concat!(
    include_str!("../../cuda/arithmetic.cuh"),
    include_str!("../../cuda/stage.cu"),
    include_str!("../../cuda/learn.cu"),
    include_str!("../../cuda/convolution.cu"),
    include_str!("../../cuda/depthwise.cu"),
    include_str!("../../cuda/forward.cu"),
    include_str!("../../cuda/range.cu"),
);

/// Options of its compiler: IEEE arithmetic, and no fused operation that the source does not ask for, as on the CPU.
pub const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];

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
