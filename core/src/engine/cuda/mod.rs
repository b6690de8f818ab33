//! The fused engine of CUDA devices: units as chains of launches of own kernels (`core/cuda/`), and of the library's
//! convolutions.
//!
//! Images are channels-last and pass as whole batches. The engine asks of a device only what [`Device`] says, so that tests
//! run it without a GPU on an emulation of the kernels.

mod abi;
mod channel_variable;
mod convolution;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod groups;
mod kernels;
mod samples;
mod sites;
mod unit;
mod weight;

pub use device::{Argument, Buffer, Device, LibraryConvolution, Memory, Pass};
#[cfg(feature = "cuda")]
pub use driver::Gpu;
pub(super) use unit::DeviceUnit;

/// The source of all kernels: CUDA C++ that includes nothing.
pub const SOURCE: &str = concat!(
    include_str!("../../../cuda/arithmetic.cuh"),
    include_str!("../../../cuda/stage.cu"),
    include_str!("../../../cuda/learn.cu"),
    include_str!("../../../cuda/convolution.cu"),
    include_str!("../../../cuda/depthwise.cu"),
);
