//! What the engine asks of a device: memory, and kernels in one order. A GPU is one; the tests have another one, which runs
//! the same kernels on the CPU.

use super::abi::Plain;
use crate::error::Result;
use crate::ops::host_values;
use candle_core::Tensor;
use qdrop_kernels::conv::Conv2dShape;
use std::any::Any;
use std::marker::PhantomData;

/// Executes kernels one after the other. A call may return before its work is done; what is read later sees it.
pub trait Device: Send + Sync {
    /// Memory of this many bytes, all zero.
    ///
    /// # Errors
    /// There is not enough.
    fn allocate(&self, bytes: usize) -> Result<Memory>;

    /// Copies bytes to `offset` bytes into the memory. Those of [`HostMemory`] are perhaps copied later.
    ///
    /// # Errors
    /// The copy or earlier work failed.
    fn write(&self, to: &Memory, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for earlier work, and copies bytes from `offset` bytes into the memory.
    ///
    /// # Errors
    /// The copy or earlier work failed.
    fn read(&self, from: &Memory, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Copies a contiguous tensor of f32 into the memory. The tensor may be on the CPU, or where the model is.
    ///
    /// # Errors
    /// The copy or earlier work failed.
    fn copy(&self, from: &Tensor, to: &Memory) -> Result<()> {
        host_values(from, |values| self.write(to, 0, bytes_of(values)))?
    }

    /// A tensor of f32 in this shape with the first numbers of the memory, on candle's device `on`.
    ///
    /// # Errors
    /// There is not enough memory, or the copy or earlier work failed.
    fn tensor(&self, from: &Memory, shape: &[usize], on: &candle_core::Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.read_values(from, shape.iter().product())?, shape, on)?)
    }

    /// The first numbers of the memory.
    ///
    /// # Errors
    /// The copy or earlier work failed.
    fn read_values(&self, from: &Memory, count: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0_f32; count];
        self.read(from, 0, bytes_of_mut(&mut values))?;
        Ok(values)
    }

    /// Bytes of memory that are free; `None` if the budget of cached values is to decide what is kept.
    ///
    /// # Errors
    /// The device does not answer.
    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Runs a kernel on a grid of blocks of 256 threads.
    ///
    /// # Errors
    /// The kernel is unknown, or it or earlier work failed.
    ///
    /// # Safety
    /// The arguments are the kernel's, and addresses among them are those of memory as large as the kernel uses.
    unsafe fn launch(&self, kernel: &'static str, grid: [u32; 3], arguments: &[Argument<'_>]) -> Result<()>;

    /// Memory of the host for this many numbers, which may be any, from which the device copies fast; `None` if there is none,
    /// or if it would take more than half of what the host has left.
    ///
    /// # Errors
    /// The device failed.
    fn host_memory(&self, len: usize) -> Result<Option<Box<dyn HostMemory>>> {
        let _ = len;
        Ok(None)
    }

    /// Records what `body` launches, instead of running it. `body` neither allocates nor copies memory. Addresses and
    /// arguments stay as they are; what the memory holds may change before each replay. `None` if the device refuses to
    /// record; nothing has been computed then, and an error of `body` comes again where it runs.
    ///
    /// # Errors
    /// The device failed.
    fn record(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        let _ = body;
        Ok(None)
    }

    /// One pass of a convolution of channels-last images by the device's library, with products in TF32 if that is allowed;
    /// `None` if it has no deterministic algorithm for it.
    ///
    /// # Errors
    /// The library failed.
    fn convolution(&self, shape: &Conv2dShape, pass: Pass, tf32: bool) -> Result<Option<Box<dyn LibraryConvolution>>>;
}

pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: any bytes of plain numbers may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: plain numbers may have any bytes.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// The passes of a convolution y = x * w.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// y from x and w.
    Forward,
    /// The gradient of x from that of y, and w.
    Input,
    /// The gradient of w from x and that of y.
    Weight,
}

/// A pass of a convolution that a library computes.
pub trait LibraryConvolution: Send {
    /// Computes the pass: `x`, `w` and `y`, or their gradients, of which the pass writes one.
    ///
    /// # Errors
    /// The library failed.
    fn run(&self, x: &Buffer<f32>, w: &Buffer<f32>, y: &Buffer<f32>) -> Result<()>;
}

/// Numbers on the host that a device copies fast. Copies may be on their way as long as the memory lives, so it is filled once,
/// and waits for them when it is dropped.
pub trait HostMemory: Send + Sync {
    /// The numbers.
    fn values(&self) -> &[f32];

    /// The numbers, to fill them.
    fn values_mut(&mut self) -> &mut [f32];
}

/// Launches that a device has recorded.
pub trait Recording: Send {
    /// Runs them in their order, as if they were launched again.
    ///
    /// # Errors
    /// A kernel or earlier work failed.
    fn replay(&self) -> Result<()>;
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub struct Argument<'a> {
    /// The address of its value.
    pub value: *const u8,
    /// The size of its value.
    pub bytes: usize,
    lifetime: PhantomData<&'a u8>,
}

impl<'a, T: Plain> From<&'a T> for Argument<'a> {
    fn from(value: &'a T) -> Self {
        Self { value: std::ptr::from_ref(value).cast(), bytes: size_of::<T>(), lifetime: PhantomData }
    }
}

/// Memory of a device, which is freed with this value.
pub struct Memory {
    /// Its address on the device.
    pub address: u64,
    /// Its size.
    pub bytes: usize,
    /// What frees it when it is dropped.
    pub owner: Box<dyn Any + Send + Sync>,
}

/// Numbers in a device's memory.
pub struct Buffer<T> {
    memory: Memory,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Numbers that are all zero; one at least, so that there is an address.
    pub fn zeros(device: &dyn Device, len: usize) -> Result<Self> {
        let memory = device.allocate(len.max(1) * size_of::<T>())?;
        Ok(Self { memory, len, numbers: PhantomData })
    }

    /// These numbers.
    pub fn new(device: &dyn Device, values: &[T]) -> Result<Self> {
        let buffer = Self::zeros(device, values.len())?;
        buffer.write(device, 0, values)?;
        Ok(buffer)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the first one.
    pub fn address(&self) -> u64 {
        self.memory.address
    }

    /// The address of an element.
    pub fn at(&self, index: usize) -> u64 {
        assert!(index < self.len, "element {index} of {}", self.len);
        self.memory.address + (index * size_of::<T>()) as u64
    }

    /// Copies numbers to the device from element `first` on.
    pub fn write(&self, device: &dyn Device, first: usize, values: &[T]) -> Result<()> {
        assert!(first + values.len() <= self.len, "{} numbers from {first} on of {}", values.len(), self.len);
        device.write(&self.memory, first * size_of::<T>(), bytes_of(values))
    }

    /// Waits, and copies all numbers from the device.
    pub fn read(&self, device: &dyn Device, values: &mut [T]) -> Result<()> {
        assert_eq!(values.len(), self.len);
        device.read(&self.memory, 0, bytes_of_mut(values))
    }
}

impl Buffer<f32> {
    /// Copies a tensor to the first numbers.
    pub fn copy(&self, device: &dyn Device, from: &Tensor) -> Result<()> {
        assert!(from.elem_count() <= self.len, "a tensor of {} numbers for {}", from.elem_count(), self.len);
        device.copy(from, &self.memory)
    }

    /// Waits, and copies the first numbers from the device.
    pub fn read_first(&self, device: &dyn Device, values: &mut [f32]) -> Result<()> {
        assert!(values.len() <= self.len, "{} numbers of {}", values.len(), self.len);
        device.read(&self.memory, 0, bytes_of_mut(values))
    }

    /// The first numbers as a tensor of this shape on candle's device `on`.
    pub fn to_tensor(&self, device: &dyn Device, shape: &[usize], on: &candle_core::Device) -> Result<Tensor> {
        assert!(shape.iter().product::<usize>() <= self.len, "a tensor of {shape:?} from {} numbers", self.len);
        device.tensor(&self.memory, shape, on)
    }

    /// All numbers.
    pub fn to_vec(&self, device: &dyn Device) -> Result<Vec<f32>> {
        device.read_values(&self.memory, self.len)
    }
}
