//! The fused engine of CUDA devices: units as chains of launches of own kernels, and of the library's convolutions.
//!
//! Images are channels-last and pass as whole batches.

mod channel_variable;
mod groups;
mod queue;
mod samples;
mod sites;
mod unit;
mod weight;

pub(super) use unit::DeviceUnit;
