//! A CUDA device for tests: it runs the kernels on the CPU, compiled as C++.

use qdrop_core::engine::cuda::{Argument, Device, LibraryConvolution, Memory, Pass};
use qdrop_core::kernels::conv::Conv2dShape;
use qdrop_core::{Error, Result};
use std::ffi::{c_char, c_int, c_uint, c_void, CString};

extern "C" {
    fn qdrop_launch_emulated(
        name: *const c_char,
        grid: *const c_uint,
        threads: c_uint,
        backwards: bool,
        arguments: *mut *mut c_void,
    ) -> c_int;
}

/// Runs kernels at once. Blocks run one after the other, and the threads of a block take turns at barriers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Emulation {
    /// Whether blocks and threads run from the last to the first one. Results must not depend on it.
    pub backwards: bool,
}

/// Sixteen bytes with their alignment.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Unit(#[allow(dead_code, reason = "gives the size")] [u8; 16]);

impl Device for Emulation {
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        let mut owner = vec![Unit([0; 16]); bytes.div_ceil(16)].into_boxed_slice();
        Ok(Memory { address: owner.as_mut_ptr() as u64, bytes, owner: Box::new(owner) })
    }

    fn write(&self, to: &Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= to.bytes);
        // SAFETY: checked above; kernels run only within `launch`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (to.address as *mut u8).add(offset), bytes.len()) };
        Ok(())
    }

    fn read(&self, from: &Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(offset + bytes.len() <= from.bytes);
        // SAFETY: checked above; kernels run only within `launch`.
        unsafe {
            std::ptr::copy_nonoverlapping((from.address as *const u8).add(offset), bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    unsafe fn launch(&self, kernel: &'static str, grid: [u32; 3], arguments: &[Argument<'_>]) -> Result<()> {
        let name = CString::new(kernel).map_err(|e| Error::message(e.to_string()))?;
        let mut values: Vec<*mut c_void> = arguments.iter().map(|a| a.value.cast_mut().cast()).collect();
        match qdrop_launch_emulated(name.as_ptr(), grid.as_ptr(), 256, self.backwards, values.as_mut_ptr()) {
            0 => Ok(()),
            1 => Err(Error::message(format!("no kernel is called '{kernel}'"))),
            _ => Err(Error::message(format!("threads of a block of '{kernel}' part at a barrier"))),
        }
    }

    fn convolution(&self, _: &Conv2dShape, _: Pass, _: bool) -> Result<Option<Box<dyn LibraryConvolution>>> {
        Ok(None)
    }
}
