//! The fused engine for the CPU: a unit's forward and backward pass and its updates as a fixed plan over preallocated
//! buffers.
//!
//! Images are channels-last (NHWC); activation function, quantizer and drop are one pass; and the batch is processed in
//! chunks that stay in the cache. [`plan`] makes the plan of a [`Chain`](super::chain::Chain), and [`unit`] carries it
//! out.

mod images;
mod lanes;
mod number;
mod plan;
mod rounding;
mod samples;
mod shortcut;
mod stage;
mod unit;
mod weight;

pub use unit::CpuUnit;
