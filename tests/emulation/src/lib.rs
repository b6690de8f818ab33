//! A CUDA device for tests: it runs the kernels on the CPU, compiled as C++.

use qdrop_core::cuda::{Argument, Device, HostMemory, LibraryConvolution, Memory, Pass, Recording};
use qdrop_core::kernels::conv::Conv2dShape;
use qdrop_core::{Error, Result};
use std::cell::RefCell;
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
    /// Free memory that the device says it has.
    pub free: Option<u64>,
    /// Whether it has memory of the host that it copies fast.
    pub host: bool,
    /// Whether it refuses to record launches, as a GPU does after a call that it cannot record.
    pub refuses: bool,
}

struct Host(Vec<f32>);

impl HostMemory for Host {
    fn values(&self) -> &[f32] {
        &self.0
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// Sixteen bytes with their alignment.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Unit(#[allow(dead_code, reason = "gives the size")] [u8; 16]);

/// A launch with copies of its arguments.
struct Launch {
    kernel: &'static str,
    grid: [u32; 3],
    arguments: Vec<Vec<Unit>>,
}

thread_local! {
    /// The launches of this thread's recording.
    static RECORDED: RefCell<Option<Vec<Launch>>> = const { RefCell::new(None) };
}

/// A GPU refuses to allocate and to wait while it records.
fn assert_not_recording(what: &str) {
    assert!(RECORDED.with_borrow(Option::is_none), "{what} while launches are recorded");
}

struct Launches(Emulation, Vec<Launch>);

impl Recording for Launches {
    fn replay(&self) -> Result<()> {
        for launch in &self.1 {
            let values = launch.arguments.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
            // SAFETY: the arguments are copies of those of a launch.
            unsafe { self.0.run(launch.kernel, launch.grid, values) }?;
        }
        Ok(())
    }
}

impl Emulation {
    /// Runs a kernel.
    ///
    /// # Safety
    /// As for a launch: these are pointers to the kernel's arguments.
    unsafe fn run(&self, kernel: &str, grid: [u32; 3], mut values: Vec<*mut c_void>) -> Result<()> {
        let name = CString::new(kernel).map_err(|e| Error::message(e.to_string()))?;
        match qdrop_launch_emulated(name.as_ptr(), grid.as_ptr(), 256, self.backwards, values.as_mut_ptr()) {
            0 => Ok(()),
            1 => Err(Error::message(format!("no kernel is called '{kernel}'"))),
            _ => Err(Error::message(format!("threads of a block of '{kernel}' part at a barrier"))),
        }
    }
}

impl Device for Emulation {
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        assert_not_recording("memory is allocated");
        let mut owner = vec![Unit([0; 16]); bytes.div_ceil(16)].into_boxed_slice();
        Ok(Memory { address: owner.as_mut_ptr() as u64, bytes, owner: Box::new(owner) })
    }

    fn write(&self, to: &Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= to.bytes);
        assert_not_recording("memory is written");
        // SAFETY: checked above; kernels run only within `launch`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (to.address as *mut u8).add(offset), bytes.len()) };
        Ok(())
    }

    fn read(&self, from: &Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(offset + bytes.len() <= from.bytes);
        assert_not_recording("memory is read");
        // SAFETY: checked above; kernels run only within `launch`.
        unsafe {
            std::ptr::copy_nonoverlapping((from.address as *const u8).add(offset), bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(self.free)
    }

    fn host_memory(&self, len: usize) -> Result<Option<Box<dyn HostMemory>>> {
        Ok(if self.host { Some(Box::new(Host(vec![0.0; len]))) } else { None })
    }

    unsafe fn launch(&self, kernel: &'static str, grid: [u32; 3], arguments: &[Argument<'_>]) -> Result<()> {
        let copy = |a: &Argument<'_>| {
            let mut copy = vec![Unit([0; 16]); a.bytes.div_ceil(16)];
            // SAFETY: both are at least as large.
            unsafe { std::ptr::copy_nonoverlapping(a.value, copy.as_mut_ptr().cast(), a.bytes) };
            copy
        };
        let recorded = RECORDED.with_borrow_mut(|recorded| {
            let launches = recorded.as_mut()?;
            launches.push(Launch { kernel, grid, arguments: arguments.iter().map(copy).collect() });
            Some(())
        });
        match recorded {
            Some(()) => Ok(()),
            None => self.run(kernel, grid, arguments.iter().map(|a| a.value.cast_mut().cast()).collect()),
        }
    }

    fn record(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        RECORDED.set(Some(Vec::new()));
        let done = body();
        let launches = RECORDED.take().unwrap_or_default();
        if self.refuses {
            return Ok(None);
        }
        done?;
        Ok(Some(Box::new(Launches(*self, launches))))
    }

    fn convolution(&self, _: &Conv2dShape, _: Pass, _: bool) -> Result<Option<Box<dyn LibraryConvolution>>> {
        Ok(None)
    }
}
