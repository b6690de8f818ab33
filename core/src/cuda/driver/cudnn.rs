//! Convolutions of cuDNN 9, which is opened at run time.

use super::super::device::{Buffer, LibraryConvolution, Memory, Pass};
use super::super::kernels::is_depthwise;
use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use libloading::Library;
use qdrop_kernels::conv::Conv2dShape;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Arc, Mutex};

type Handle = *mut c_void;
type Status = c_int;

/// Names under which cuDNN is looked for.
pub const NAMES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so"];
/// Memory that an algorithm may use beside its tensors.
const WORKSPACE: usize = 1 << 30;
const FLOAT: c_int = 0;
const NHWC: c_int = 1;
const CROSS_CORRELATION: c_int = 1;
/// Math types: TF32 where the device has it, or multiply-add of f32.
const DEFAULT_MATH: c_int = 0;
const FMA_MATH: c_int = 3;
const TENSOR_OP_MATH: c_int = 1;
/// Tensor cores with numbers that may be rounded to fewer than TF32's digits.
const ALLOW_CONVERSION: c_int = 2;
const DETERMINISTIC: c_int = 1;
/// Algorithms that are asked for.
const ASKED: usize = 12;

/// What cuDNN says of an algorithm.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Performance {
    algorithm: c_int,
    status: Status,
    time: f32,
    memory: usize,
    determinism: c_int,
    math: c_int,
    reserved: [c_int; 3],
}

type Create = unsafe extern "C" fn(*mut Handle) -> Status;
type Destroy = unsafe extern "C" fn(Handle) -> Status;
type Find = unsafe extern "C" fn(Handle, Handle, Handle, Handle, Handle, c_int, *mut c_int, *mut Performance) -> Status;
type Compute = unsafe extern "C" fn(
    Handle,
    *const f32,
    Handle,
    u64,
    Handle,
    u64,
    Handle,
    c_int,
    u64,
    usize,
    *const f32,
    Handle,
    u64,
) -> Status;

/// The library under the name under which it is found, and its version as a number.
struct Found {
    name: &'static str,
    library: Library,
    version: Option<usize>,
}

impl Found {
    fn new() -> Option<Self> {
        // SAFETY: cuDNN's initialization has no conditions.
        let open = |name| Some((name, unsafe { Library::new(name) }.ok()?));
        let (name, library) = NAMES.into_iter().find_map(open)?;
        // SAFETY: the function has this type in cuDNN's headers, and takes nothing.
        let version = unsafe { library.get::<unsafe extern "C" fn() -> usize>(b"cudnnGetVersion\0").map(|f| f()) };
        Some(Self { name, library, version: version.ok() })
    }

    /// Whether it is of the version that is used here.
    fn fits(&self) -> bool {
        self.version.is_some_and(|version| version / 10_000 == 9)
    }
}

/// The name of the library, if it can be used, and the version of the one that was found.
pub fn found() -> (Option<&'static str>, Option<usize>) {
    let found = Found::new();
    (found.as_ref().filter(|found| found.fits()).map(|found| found.name), found.and_then(|found| found.version))
}

/// The library's functions.
struct Functions {
    text: unsafe extern "C" fn(Status) -> *const c_char,
    destroy: Destroy,
    create_tensor: Create,
    destroy_tensor: Destroy,
    set_tensor: unsafe extern "C" fn(Handle, c_int, c_int, c_int, c_int, c_int, c_int) -> Status,
    create_filter: Create,
    destroy_filter: Destroy,
    set_filter: unsafe extern "C" fn(Handle, c_int, c_int, c_int, c_int, c_int, c_int) -> Status,
    create_convolution: Create,
    destroy_convolution: Destroy,
    #[allow(clippy::type_complexity)]
    set_convolution: unsafe extern "C" fn(Handle, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int) -> Status,
    set_groups: unsafe extern "C" fn(Handle, c_int) -> Status,
    set_math: unsafe extern "C" fn(Handle, c_int) -> Status,
    find: [Find; 3],
    compute: [Compute; 3],
}

/// An open cuDNN on a stream.
pub struct Cudnn {
    handle: Handle,
    functions: Functions,
    stream: Arc<CudaStream>,
    /// The largest one so far, which later plans share. Plans that were made with a smaller one keep theirs, so that its
    /// address stays valid in recorded launches.
    workspace: Mutex<Option<Arc<Memory>>>,
    _library: Library,
}

// SAFETY: the handle is used by one thread at a time: under the lock of the workspace, or before the value is shared.
unsafe impl Send for Cudnn {}
unsafe impl Sync for Cudnn {}

impl Cudnn {
    /// Opens the library; `None` if there is none of version 9.
    ///
    /// # Errors
    /// The library lacks a function, or does not start.
    pub fn open(stream: &Arc<CudaStream>) -> Result<Option<Self>> {
        let Some(Found { library, version: Some(version), .. }) = Found::new().filter(Found::fits) else {
            return Ok(None);
        };
        let wrong = |e: libloading::Error| {
            Error::message(format!("the cuDNN library that was found lacks a function of version 9: {e}"))
        };
        macro_rules! get {
            ($name:literal) => {
                // SAFETY: the function has this type in cuDNN 9's headers.
                *unsafe { library.get($name) }.map_err(wrong)?
            };
        }
        let create: Create = get!(b"cudnnCreate\0");
        let set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> Status = get!(b"cudnnSetStream\0");
        let functions = Functions {
            text: get!(b"cudnnGetErrorString\0"),
            destroy: get!(b"cudnnDestroy\0"),
            create_tensor: get!(b"cudnnCreateTensorDescriptor\0"),
            destroy_tensor: get!(b"cudnnDestroyTensorDescriptor\0"),
            set_tensor: get!(b"cudnnSetTensor4dDescriptor\0"),
            create_filter: get!(b"cudnnCreateFilterDescriptor\0"),
            destroy_filter: get!(b"cudnnDestroyFilterDescriptor\0"),
            set_filter: get!(b"cudnnSetFilter4dDescriptor\0"),
            create_convolution: get!(b"cudnnCreateConvolutionDescriptor\0"),
            destroy_convolution: get!(b"cudnnDestroyConvolutionDescriptor\0"),
            set_convolution: get!(b"cudnnSetConvolution2dDescriptor\0"),
            set_groups: get!(b"cudnnSetConvolutionGroupCount\0"),
            set_math: get!(b"cudnnSetConvolutionMathType\0"),
            find: [
                get!(b"cudnnGetConvolutionForwardAlgorithm_v7\0"),
                get!(b"cudnnGetConvolutionBackwardDataAlgorithm_v7\0"),
                get!(b"cudnnGetConvolutionBackwardFilterAlgorithm_v7\0"),
            ],
            compute: [
                get!(b"cudnnConvolutionForward\0"),
                get!(b"cudnnConvolutionBackwardData\0"),
                get!(b"cudnnConvolutionBackwardFilter\0"),
            ],
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the handle outlives the call.
        let created = unsafe { create(&mut handle) };
        if created != 0 {
            return Err(Error::message(format!("cuDNN {version} does not start (status {created})")));
        }
        let cudnn = Self { handle, functions, stream: stream.clone(), workspace: Mutex::default(), _library: library };
        // SAFETY: the handle was created, and both live as long as the value.
        let status = unsafe { set_stream(handle, stream.cu_stream().cast()) };
        cudnn.check(status, "it was given a stream")?;
        Ok(Some(cudnn))
    }

    fn bind(&self) -> Result<()> {
        let bound = self.stream.context().bind_to_thread();
        bound.map_err(|e| Error::message(format!("the GPU's context could not be bound: {e}")))
    }

    fn check(&self, status: Status, doing: &str) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function returns a constant text.
        let text = unsafe { CStr::from_ptr((self.functions.text)(status)) };
        Err(Error::message(format!("cuDNN failed while {doing}: {}", text.to_string_lossy())))
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the handle was created by this library.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// A pass of a convolution with its algorithm.
struct Planned {
    cudnn: Arc<Cudnn>,
    pass: Pass,
    x: Handle,
    w: Handle,
    y: Handle,
    convolution: Handle,
    algorithm: c_int,
    /// What the algorithm needs beside its tensors.
    workspace: Option<Arc<Memory>>,
    workspace_bytes: usize,
}

// SAFETY: descriptors are read only, and belong to this value.
unsafe impl Send for Planned {}

impl Drop for Planned {
    fn drop(&mut self) {
        let f = &self.cudnn.functions;
        // SAFETY: the descriptors were created by this library.
        unsafe {
            (f.destroy_tensor)(self.x);
            (f.destroy_filter)(self.w);
            (f.destroy_tensor)(self.y);
            (f.destroy_convolution)(self.convolution);
        }
    }
}

/// Plans one pass; `None` if there is no deterministic algorithm.
///
/// # Errors
/// A call of the library fails.
pub fn convolution(
    cudnn: &Arc<Cudnn>,
    s: &Conv2dShape,
    pass: Pass,
    tf32: bool,
) -> Result<Option<Box<dyn LibraryConvolution>>> {
    if is_depthwise(s) {
        return Ok(None);
    }
    let null = std::ptr::null_mut();
    let mut planned = Planned {
        cudnn: cudnn.clone(),
        pass,
        x: null,
        w: null,
        y: null,
        convolution: null,
        algorithm: 0,
        workspace: None,
        workspace_bytes: 0,
    };
    let f = &cudnn.functions;
    let n = |number: usize| number as c_int;
    let math = if tf32 { DEFAULT_MATH } else { FMA_MATH };
    let [x, w, y] = [
        [s.batch, s.in_channels, s.in_height, s.in_width],
        [s.out_channels, s.in_channels / s.groups, s.kernel[0], s.kernel[1]],
        [s.batch, s.out_channels, s.out_height(), s.out_width()],
    ];
    let described = |status| cudnn.check(status, "a convolution was described");
    cudnn.bind()?;
    // One thread at a time uses the handle.
    let mut workspace = cudnn.workspace.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: descriptors exist before they are used.
    unsafe {
        described((f.create_tensor)(&mut planned.x))?;
        described((f.create_filter)(&mut planned.w))?;
        described((f.create_tensor)(&mut planned.y))?;
        described((f.create_convolution)(&mut planned.convolution))?;
        described((f.set_tensor)(planned.x, NHWC, FLOAT, n(x[0]), n(x[1]), n(x[2]), n(x[3])))?;
        described((f.set_filter)(planned.w, FLOAT, NHWC, n(w[0]), n(w[1]), n(w[2]), n(w[3])))?;
        described((f.set_tensor)(planned.y, NHWC, FLOAT, n(y[0]), n(y[1]), n(y[2]), n(y[3])))?;
        described((f.set_convolution)(
            planned.convolution,
            n(s.padding.top),
            n(s.padding.left),
            n(s.stride[0]),
            n(s.stride[1]),
            n(s.dilation[0]),
            n(s.dilation[1]),
            CROSS_CORRELATION,
            FLOAT,
        ))?;
        described((f.set_groups)(planned.convolution, n(s.groups)))?;
        described((f.set_math)(planned.convolution, math))?;
    }
    let mut found = [Performance::default(); ASKED];
    let mut count = 0;
    let [first, second, third] = match pass {
        Pass::Forward => [planned.x, planned.w, planned.y],
        Pass::Input => [planned.w, planned.y, planned.x],
        Pass::Weight => [planned.x, planned.y, planned.w],
    };
    let find = f.find[pass as usize];
    // SAFETY: the array is as large as it is said to be. The convolution's descriptor comes before the result's in all passes.
    let asked = unsafe {
        find(cudnn.handle, first, second, planned.convolution, third, n(ASKED), &mut count, found.as_mut_ptr())
    };
    if asked != 0 {
        return Ok(None);
    }
    let fits = |p: &&Performance| {
        let precise = p.math != ALLOW_CONVERSION && (tf32 || p.math != TENSOR_OP_MATH);
        p.status == 0 && p.determinism == DETERMINISTIC && p.memory <= WORKSPACE && precise
    };
    // What the library proposes may yet fail on a device, so each is tried.
    let memory = |shape: [usize; 4]| super::allocate(&cudnn.stream, shape.iter().product::<usize>() * size_of::<f32>());
    let (x, w, y) = (memory(x)?, memory(w)?, memory(y)?);
    for proposed in found.iter().take(count as usize).filter(fits) {
        (planned.algorithm, planned.workspace_bytes) = (proposed.algorithm, proposed.memory);
        planned.workspace = match &*workspace {
            _ if proposed.memory == 0 => None,
            Some(memory) if memory.bytes >= proposed.memory => Some(memory.clone()),
            _ => Some(workspace.insert(Arc::new(super::allocate(&cudnn.stream, proposed.memory)?)).clone()),
        };
        if tf32 {
            // SAFETY: the descriptor exists.
            described(unsafe { (f.set_math)(planned.convolution, proposed.math) })?;
        }
        if planned.compute(x.address, w.address, y.address) == 0 {
            return Ok(Some(Box::new(planned)));
        }
    }
    Ok(None)
}

impl Planned {
    /// Computes the pass with memory at these addresses, which is as large as the descriptors say. The caller has the lock.
    fn compute(&self, x: u64, w: u64, y: u64) -> Status {
        let cudnn = &*self.cudnn;
        let room = self.workspace.as_ref().map_or(0, |memory| memory.address);
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (x, w, y) = ((self.x, x), (self.w, w), (self.y, y));
        let [first, second, third] = match self.pass {
            Pass::Forward => [x, w, y],
            Pass::Input => [w, y, x],
            Pass::Weight => [x, y, w],
        };
        let compute = cudnn.functions.compute[self.pass as usize];
        // SAFETY: the memory has the sizes of the descriptors, and the workspace is as large as the algorithm needs.
        unsafe {
            compute(
                cudnn.handle,
                &one,
                first.0,
                first.1,
                second.0,
                second.1,
                self.convolution,
                self.algorithm,
                room,
                self.workspace_bytes,
                &zero,
                third.0,
                third.1,
            )
        }
    }
}

impl LibraryConvolution for Planned {
    fn run(&self, x: &Buffer<f32>, w: &Buffer<f32>, y: &Buffer<f32>) -> Result<()> {
        self.cudnn.bind()?;
        // One thread at a time uses the handle.
        let _workspace = self.cudnn.workspace.lock().unwrap_or_else(|e| e.into_inner());
        // `kernels` checks the sizes of the buffers.
        let status = self.compute(x.address(), w.address(), y.address());
        self.cudnn.check(status, "a convolution was computed")
    }
}
