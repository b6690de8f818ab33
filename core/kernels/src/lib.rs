//! Numeric kernels of qdrop on plain `f32` slices. They do not depend on candle.
//!
//! Each file holds one kernel. The fast version of a kernel is written as simple loops that the
//! compiler vectorizes for the instruction set found at run time ([`simd::vectorize`]); a scalar
//! reference stands beside it where the fast version is not obvious, and tests compare the two.
//!
//! # Determinism
//! Every floating-point sum is accumulated by one task in a fixed order, however tasks are shared out, so
//! results are bit-identical for any thread count on one machine.

pub mod activation;
pub mod adam;
pub mod adaround;
pub mod boxes;
pub mod clip;
pub mod conv;
pub mod drop;
pub mod fake_quantize;
mod gemm;
pub mod linear;
pub mod loss;
pub mod math;
pub mod nhwc;
pub mod peak;
pub mod pool;
pub mod random;
pub mod range_search;
pub mod rounding;
pub mod segments;
pub mod simd;
pub mod testing;

pub use conv::{Conv2dShape, ShapeError};

/// Runs `body` on a thread of rayon's pool. Parallel kernels that it calls one after the other then start without
/// waking that thread each time.
pub fn in_pool<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    rayon::join(body, || ()).0
}
