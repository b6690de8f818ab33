//! Page-locked memory of the host, which a GPU copies without the help of the CPU.

use super::super::device::HostMemory;
use crate::memory::available;
use candle_core::cuda_backend::cudarc::driver::{result, CudaStream};
use std::sync::Arc;

/// Page-locked numbers.
struct Pinned {
    address: *mut f32,
    len: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Pinned {}
unsafe impl Sync for Pinned {}

/// Memory of the host for this many numbers; `None` if it would take more than half of what is available, or cannot be locked.
pub fn allocate(stream: &Arc<CudaStream>, len: usize) -> Option<Box<dyn HostMemory>> {
    let bytes = len * size_of::<f32>();
    if available().is_none_or(|available| bytes as u64 > available / 2) {
        return None;
    }
    // SAFETY: the memory is freed once, below. Flags of 0: the CPU reads it as fast as other memory.
    let address = unsafe { result::malloc_host(bytes, 0) }.ok()?;
    Some(Box::new(Pinned { address: address.cast(), len, stream: stream.clone() }))
}

impl HostMemory for Pinned {
    fn values(&self) -> &[f32] {
        // SAFETY: it has as many numbers, and any bytes are numbers.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        // Copies from it may be on their way.
        let _ = self.stream.synchronize();
        // SAFETY: it was allocated so, and nothing copies from it any more.
        let _ = unsafe { result::free_host(self.address.cast()) };
    }
}
