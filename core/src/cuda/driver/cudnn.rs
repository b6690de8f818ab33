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
    let mut found = [Performance::default(); ASKED];
    let mut count = 0;
    cudnn.bind()?;
    // One thread at a time uses the handle.
    let mut workspace = cudnn.workspace.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: descriptors are created before they are used, and arrays are as large as they are said to be.
    let (made, asked) = unsafe {
        let made = [
            (f.create_tensor)(&mut planned.x),
            (f.create_filter)(&mut planned.w),
            (f.create_tensor)(&mut planned.y),
            (f.create_convolution)(&mut planned.convolution),
            (f.set_tensor)(planned.x, NHWC, FLOAT, n(s.batch), n(s.in_channels), n(s.in_height), n(s.in_width)),
            (f.set_filter)(
                planned.w,
                FLOAT,
                NHWC,
                n(s.out_channels),
                n(s.in_channels / s.groups),
                n(s.kernel[0]),
                n(s.kernel[1]),
            ),
            (f.set_tensor)(planned.y, NHWC, FLOAT, n(s.batch), n(s.out_channels), n(s.out_height()), n(s.out_width())),
            (f.set_convolution)(
                planned.convolution,
                n(s.padding.top),
                n(s.padding.left),
                n(s.stride[0]),
                n(s.stride[1]),
                n(s.dilation[0]),
                n(s.dilation[1]),
                CROSS_CORRELATION,
                FLOAT,
            ),
            (f.set_groups)(planned.convolution, n(s.groups)),
            (f.set_math)(planned.convolution, math),
        ];
        let [first, second, third] = match pass {
            Pass::Forward => [planned.x, planned.w, planned.y],
            Pass::Input => [planned.w, planned.y, planned.x],
            Pass::Weight => [planned.x, planned.y, planned.w],
        };
        // The convolution's descriptor is the third argument in all passes.
        let find = f.find[pass as usize];
        let asked =
            find(cudnn.handle, first, second, planned.convolution, third, n(ASKED), &mut count, found.as_mut_ptr());
        (made, asked)
    };
    made.into_iter().try_for_each(|status| cudnn.check(status, "a convolution was described"))?;
    if asked != 0 {
        return Ok(None);
    }
    let fits = |p: &&Performance| {
        let precise = p.math != ALLOW_CONVERSION && (tf32 || p.math != TENSOR_OP_MATH);
        p.status == 0 && p.determinism == DETERMINISTIC && p.memory <= WORKSPACE && precise
    };
    let Some(best) = found.iter().take(count as usize).find(fits) else { return Ok(None) };
    (planned.algorithm, planned.workspace_bytes) = (best.algorithm, best.memory);
    if best.memory > 0 {
        let memory = match &*workspace {
            Some(memory) if memory.bytes >= best.memory => memory.clone(),
            _ => workspace.insert(Arc::new(super::allocate(&cudnn.stream, best.memory)?)).clone(),
        };
        planned.workspace = Some(memory);
    }
    if tf32 {
        // SAFETY: the descriptor exists.
        let status = unsafe { (f.set_math)(planned.convolution, best.math) };
        cudnn.check(status, "a convolution was described")?;
    }
    Ok(Some(Box::new(planned)))
}

impl LibraryConvolution for Planned {
    fn run(&self, x: &Buffer<f32>, w: &Buffer<f32>, y: &Buffer<f32>) -> Result<()> {
        let cudnn = &*self.cudnn;
        cudnn.bind()?;
        // One thread at a time uses the handle.
        let _workspace = cudnn.workspace.lock().unwrap_or_else(|e| e.into_inner());
        let room = self.workspace.as_ref().map_or(0, |memory| memory.address);
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (x_, w_, y_) = ((self.x, x.address()), (self.w, w.address()), (self.y, y.address()));
        let [first, second, third] = match self.pass {
            Pass::Forward => [x_, w_, y_],
            Pass::Input => [w_, y_, x_],
            Pass::Weight => [x_, y_, w_],
        };
        let compute = cudnn.functions.compute[self.pass as usize];
        // SAFETY: the buffers have the sizes of the descriptors (`kernels` checks the same), and the workspace is as large as
        // the algorithm needs.
        let status = unsafe {
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
        };
        cudnn.check(status, "a convolution was computed")
    }
}
