//! Every kernel of the CUDA device against the kernels of the CPU: on the emulation in two orders of blocks and threads, and on a
//! GPU if there is one. What is no sum has the same bits.

mod compile;
mod convolutions;
mod forward;
mod learning;
mod ranges;
mod stages;

use crate::support::{cuda_devices, only_gpu};
use qdrop_core::cuda::{Buffer, Device};
use qdrop_emulation::Emulation;
use std::sync::Arc;

fn devices() -> Vec<Arc<dyn Device>> {
    let backwards: Arc<dyn Device> = Arc::new(Emulation { backwards: true, ..Emulation::default() });
    cuda_devices().into_iter().chain(Some(backwards).filter(|_| !only_gpu())).collect()
}

/// The numbers on a device.
fn on(d: &dyn Device, values: &[f32]) -> Buffer<f32> {
    Buffer::new(d, values).unwrap()
}

/// Whether sums in another order agree: their terms are at most `largest`.
fn sums_agree(a: f64, b: f64, terms: usize, largest: f64) -> bool {
    (a - b).abs() <= 1e-6 * terms as f64 * largest
}
