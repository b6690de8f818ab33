//! The fused engine for the CPU: a unit's forward and backward pass and its updates as a fixed plan over preallocated
//! buffers.
//!
//! Images are channels-last (NHWC). Activation function, quantizer and drop are applied in one pass. The batch is
//! processed in chunks that stay in the cache. [`plan`] turns a [`Chain`](super::chain::Chain) into a plan, and
//! [`pass`] executes it: for [`unit`], which learns, and for [`float`], a unit of the float
//! network.

mod channel_variable;
mod choice;
mod float;
mod images;
mod operation;
mod pass;
mod plan;
mod readers;
mod rounding;
mod samples;
mod stage;
mod unit;
mod update;
mod weight;

pub use float::FloatUnit;
pub use images::Order;
pub use unit::CpuUnit;
