//! The kernels of `core/cuda/` as functions. Each checks that all that its kernel uses lies inside its buffers, as far as
//! sizes say it; numbers of samples, ranges of sums and rows of rates that lie in device memory are checked where they are
//! written.

mod convolution;
mod forward;
mod learn;
mod range;
mod stage;

pub use convolution::*;
pub use forward::*;
pub use learn::*;
pub use range::*;
pub use stage::*;

use super::device::{Buffer, Device};
use crate::error::Result;

const THREADS: usize = 256;

/// A grid of one thread for each of `count` elements.
fn blocks(count: usize) -> [u32; 3] {
    [count.div_ceil(THREADS) as u32, 1, 1]
}

/// Launches a kernel. The caller has checked its buffers.
macro_rules! launch {
    ($device:expr, $name:expr, $grid:expr, $($argument:expr),* $(,)?) => {
        // SAFETY: the arguments are those of the kernel's source, and the function checks the buffers.
        unsafe { $device.launch($name, $grid, &[$((&$argument).into()),*]) }
    };
}
use launch;

/// The names of a kernel for each activation function, in the order of [`name`](super::abi::name).
macro_rules! names {
    ($kernel:literal) => {
        [
            concat!($kernel, "_none"),
            concat!($kernel, "_relu"),
            concat!($kernel, "_relu6"),
            concat!($kernel, "_silu"),
            concat!($kernel, "_hard_swish"),
            concat!($kernel, "_hard_sigmoid"),
            concat!($kernel, "_sigmoid"),
            concat!($kernel, "_gelu"),
            concat!($kernel, "_clip"),
        ]
    };
}
use names;

/// Channels-last images from images (C, pixels), or the other way round: transposes `batch` matrices. `to` takes them from
/// element `first` on.
pub fn transpose(
    d: &dyn Device,
    from: &Buffer<f32>,
    to: &Buffer<f32>,
    [batch, rows, columns]: [usize; 3],
    first: usize,
) -> Result<()> {
    let len = batch * rows * columns;
    assert!(len <= from.len() && first + len <= to.len(), "matrices");
    let grid = [columns.div_ceil(32) as u32, rows.div_ceil(32) as u32, batch as u32];
    launch!(d, "transpose", grid, from.address(), to.at(first), rows as u32, columns as u32)
}
