//! A GPU through the CUDA driver, on candle's stream.

mod compile;
mod cudnn;
mod libraries;
mod pinned;
mod survey;

pub(crate) use libraries::missing;
pub(crate) use survey::survey;

use super::device::{bytes_of, Argument, Device, HostMemory, LibraryConvolution, Memory, Pass, Recording};
use super::source::SOURCE;
use crate::error::{Error, Result};
use crate::memory::gib;
use crate::ops::host_values;
use candle_core::cuda_backend::cudarc::driver::{result, sys, CudaGraph, CudaStream, DevicePtr, DevicePtrMut};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Storage, Tensor};
use cudnn::Cudnn;
use qdrop_kernels::conv::Conv2dShape;
use std::collections::HashMap;
use std::ffi::{c_void, CString};
use std::sync::{Arc, Mutex, OnceLock};

/// Threads of a block.
const THREADS: u32 = 256;

/// A GPU with the engine's kernels.
pub struct Gpu {
    stream: Arc<CudaStream>,
    module: Module,
    functions: Mutex<HashMap<&'static str, Function>>,
    cudnn: Option<Arc<Cudnn>>,
}

/// A loaded module. It lives as long as the process.
struct Module(sys::CUmodule);

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Module {}
unsafe impl Sync for Module {}
unsafe impl Send for Function {}

fn failed(doing: &str) -> impl Fn(result::DriverError) -> Error + '_ {
    move |e| Error::message(format!("the GPU failed while {doing}: {e}"))
}

impl Gpu {
    /// The GPU of a candle device, with its kernels compiled and loaded.
    ///
    /// # Errors
    /// The compiler or the driver fails.
    pub fn of(device: &CudaDevice) -> Result<Arc<Self>> {
        type Known = Vec<(candle_core::cuda_backend::DeviceId, Arc<Gpu>)>;
        static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
        let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, gpu)) = known.iter().find(|(id, _)| *id == device.id()) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::new(device)?);
        known.push((device.id(), gpu.clone()));
        Ok(gpu)
    }

    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().map_err(failed("its context was bound"))?;
        let (major, minor) = context.compute_capability().map_err(failed("it was asked for its capability"))?;
        let code = compile::machine_code(SOURCE, &format!("sm_{major}{minor}"))?;
        // SAFETY: the code is a whole cubin, which the driver copies.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = Module(module.map_err(failed("the kernels were loaded"))?);
        let cudnn = Cudnn::open(&stream)?.map(Arc::new);
        Ok(Self { stream, module, functions: Mutex::default(), cudnn })
    }

    /// The most memory that was allocated at once so far, in bytes, by tensors too.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn peak_memory(&self) -> Result<u64> {
        self.bind()?;
        let failed = failed("it was asked for its peak memory");
        let (mut pool, mut peak) = (std::ptr::null_mut(), 0_u64);
        let most = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: both places outlive the calls, and the attribute is a number of 64 bits.
        unsafe {
            sys::cuDeviceGetDefaultMemPool(&mut pool, self.stream.context().cu_device()).result().map_err(&failed)?;
            sys::cuMemPoolGetAttribute(pool, most, (&raw mut peak).cast()).result().map_err(&failed)?;
        }
        Ok(peak)
    }

    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(failed("its context was bound"))
    }

    fn function(&self, name: &'static str) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(Function(function)) = functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).map_err(|e| Error::message(e.to_string()))?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.module.0, text) };
        let function = function.map_err(failed(name))?;
        functions.insert(name, Function(function));
        Ok(function)
    }
}

/// Memory that the stream frees once its work is done.
struct Owned {
    address: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: it was allocated on this stream, and nothing else frees it.
        let _ = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
    }
}

/// Memory of a stream, all zero.
fn allocate(own: &Arc<CudaStream>, bytes: usize) -> Result<Memory> {
    let stream = own.cu_stream();
    let failed = |e: result::DriverError| {
        let context = format!("{:.2} GiB are wanted", gib(bytes as u64));
        match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::DeviceMemory { context },
            _ => Error::message(format!("the GPU failed to give memory ({context}): {e}")),
        }
    };
    // SAFETY: the stream lives, and the memory is owned below.
    let address = unsafe { result::malloc_async(stream, bytes) }.map_err(failed)?;
    let owner = Owned { address, stream: own.clone() };
    // SAFETY: it is as large.
    unsafe { result::memset_d8_async(address, 0, bytes, stream) }.map_err(failed)?;
    Ok(Memory { address, bytes, owner: Box::new(owner) })
}

/// A CUDA graph.
struct Recorded {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

// SAFETY: the driver's handles may be used by any thread, one at a time.
unsafe impl Send for Recorded {}

impl Recording for Recorded {
    fn replay(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(failed("its context was bound"))?;
        self.graph.launch().map_err(failed("recorded launches ran"))
    }
}

/// A stream that records, until this value is dropped.
struct Capture<'a>(&'a Arc<CudaStream>);

impl Capture<'_> {
    /// What was recorded; `None` if the driver refused any of it.
    fn end(self) -> Option<CudaGraph> {
        let graph = self.0.end_capture(sys::CUgraphInstantiate_flags(0));
        std::mem::forget(self);
        graph.ok().flatten()
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let _ = self.0.end_capture(sys::CUgraphInstantiate_flags(0));
    }
}

impl Device for Gpu {
    fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.bind()?;
        allocate(&self.stream, bytes)
    }

    fn write(&self, to: &Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= to.bytes, "a copy beyond its memory");
        self.bind()?;
        // SAFETY: checked above; the driver has copied pageable memory when the call returns.
        let copied = unsafe { result::memcpy_htod_async(to.address + offset as u64, bytes, self.stream.cu_stream()) };
        copied.map_err(failed("memory was copied to it"))
    }

    fn read(&self, from: &Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        assert!(offset + bytes.len() <= from.bytes, "a copy beyond its memory");
        self.bind()?;
        // SAFETY: checked above; the copy is done after the synchronization.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.address + offset as u64, self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(failed("memory was copied from it"))
    }

    fn copy(&self, from: &Tensor, to: &Memory) -> Result<()> {
        let bytes = from.elem_count() * size_of::<f32>();
        assert!(bytes <= to.bytes, "a copy beyond its memory");
        self.bind()?;
        let (storage, layout) = from.storage_and_layout();
        let (Storage::Cuda(cuda), Some((first, last))) = (&*storage, layout.contiguous_offsets()) else {
            return host_values(from, |values| self.write(to, 0, bytes_of(values)))?;
        };
        let values = cuda.as_cuda_slice::<f32>()?.slice(first..last);
        let (address, _reading) = values.device_ptr(&self.stream);
        // SAFETY: checked above, and the tensor is on the same stream.
        let copied = unsafe { result::memcpy_dtod_async(to.address, address, bytes, self.stream.cu_stream()) };
        copied.map_err(failed("memory was copied in it"))
    }

    fn tensor(&self, from: &Memory, shape: &[usize], on: &candle_core::Device) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        let bytes = count * size_of::<f32>();
        let candle_core::Device::Cuda(device) = on else {
            return Ok(Tensor::from_vec(self.read_values(from, count)?, shape, on)?);
        };
        assert!(bytes <= from.bytes, "a copy beyond its memory");
        self.bind()?;
        // SAFETY: the copy below writes all of it.
        let mut values = unsafe { device.alloc::<f32>(count) }?;
        {
            let (address, _writing) = values.device_ptr_mut(&self.stream);
            // SAFETY: checked above, and the tensor is on the same stream.
            let copied = unsafe { result::memcpy_dtod_async(address, from.address, bytes, self.stream.cu_stream()) };
            copied.map_err(failed("memory was copied in it"))?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        self.bind()?;
        // What the stream has yet to free is free afterwards.
        self.stream.synchronize().map_err(failed("queued work was done"))?;
        let (free, _) = result::mem_get_info().map_err(failed("it was asked for its free memory"))?;
        Ok(Some(free as u64))
    }

    unsafe fn launch(&self, kernel: &'static str, grid: [u32; 3], arguments: &[Argument<'_>]) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel)?;
        let mut values: Vec<*mut c_void> = arguments.iter().map(|a| a.value.cast_mut().cast()).collect();
        let grid = (grid[0], grid[1], grid[2]);
        let stream = self.stream.cu_stream();
        result::launch_kernel(function, grid, (THREADS, 1, 1), 0, stream, &mut values).map_err(failed(kernel))
    }

    fn host_memory(&self, len: usize) -> Result<Option<Box<dyn HostMemory>>> {
        self.bind()?;
        Ok(pinned::allocate(&self.stream, len))
    }

    fn record(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        const MODE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.bind()?;
        if self.stream.begin_capture(MODE).is_err() {
            return Ok(None);
        }
        let capture = Capture(&self.stream);
        let done = body();
        // An error of `body` may be that of a refused recording; any other comes again when the launches run.
        let graph = capture.end().filter(|_| done.is_ok());
        let recorded = |graph| Box::new(Recorded { graph, stream: self.stream.clone() }) as Box<dyn Recording>;
        Ok(graph.map(recorded))
    }

    fn convolution(&self, shape: &Conv2dShape, pass: Pass, tf32: bool) -> Result<Option<Box<dyn LibraryConvolution>>> {
        self.bind()?;
        match &self.cudnn {
            Some(cudnn) => cudnn::convolution(cudnn, shape, pass, tf32),
            None => Ok(None),
        }
    }
}
