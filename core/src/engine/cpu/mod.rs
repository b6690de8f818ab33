//! The fused engine for the CPU: a unit's forward and backward pass and its updates as a fixed plan over preallocated
//! buffers.
//!
//! Images are channels-last (NHWC). Activation function, quantizer and drop are applied in one pass. The batch is
//! processed in chunks that stay in the cache. [`plan`] turns a [`Chain`](super::chain::Chain) into a plan, and
//! [`unit`] executes it.

mod addition;
mod channel_variable;
mod images;
mod plan;
mod rounding;
mod samples;
mod stage;
mod unit;
mod update;
mod weight;

pub use unit::CpuUnit;
