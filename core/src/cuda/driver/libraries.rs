//! CUDA's libraries, which are opened when a GPU is asked for rather than when the program starts.
//!
//! candle's bindings are linked to the functions of these libraries. Here each of these functions is defined: it jumps to an
//! address in a table, which [`open`] fills. The linker then leaves out the libraries, of which nothing is missing any more, and
//! the program starts on machines that have none of them. Until the table is filled a function returns its library's code of a
//! failure. Those of the CUDA runtime serve kernels of candle that no network here uses, and do nothing.

use candle_core::cuda_backend::cudarc::driver::sys;
use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    Driver,
    Compiler,
    Blas,
    LightBlas,
    Random,
}

/// A library that a GPU needs.
struct Known {
    id: Id,
    /// What it is, and where it comes from.
    what: &'static str,
    /// Names under which it is looked for, the newest version first.
    files: &'static [&'static str],
    functions: &'static [&'static str],
    table: &'static [AtomicUsize],
}

/// What returns a code.
#[cfg(target_arch = "x86_64")]
macro_rules! returns {
    ($code:literal) => {
        concat!("mov eax, ", $code, "\nret")
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! returns {
    ($code:literal) => {
        concat!("mov w0, ", $code, "\nret")
    };
}

/// What jumps to the address at a place.
#[cfg(target_arch = "x86_64")]
macro_rules! jumps {
    ($place:expr) => {
        concat!("jmp qword ptr [rip + ", $place, "]")
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! jumps {
    ($place:expr) => {
        concat!("adrp x16, ", $place, "\nldr x16, [x16, :lo12:", $place, "]\nbr x16")
    };
}

/// Defines functions that jump to the addresses of a table. `$code` is what they return as long as they have no address.
macro_rules! code {
    ($table:ident, $symbol:ident, $code:literal, $($name:ident)*) => {
        std::arch::global_asm!(
            ".pushsection .text",
            concat!(stringify!($table), "_none:"),
            returns!($code),
            ".popsection",
            concat!(".pushsection .data.", stringify!($table), ",\"aw\",@progbits"),
            ".p2align 3",
            concat!(".hidden ", stringify!($symbol)),
            concat!(".globl ", stringify!($symbol)),
            concat!(stringify!($symbol), ":"),
            ".popsection",
            $(
                concat!(".pushsection .data.", stringify!($table), ",\"aw\",@progbits"),
                concat!(stringify!($table), "_", stringify!($name), ":"),
                concat!(".quad ", stringify!($table), "_none"),
                ".popsection",
                ".pushsection .text",
                concat!(".hidden ", stringify!($name)),
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                jumps!(concat!(stringify!($table), "_", stringify!($name))),
                ".popsection",
            )*
        );
    };
}

/// The same, and a function that returns their names and the table.
macro_rules! functions {
    ($table:ident, $symbol:ident, $code:literal, $($name:ident)*) => {
        code! { $table, $symbol, $code, $($name)* }
        fn $table() -> (&'static [&'static str], &'static [AtomicUsize]) {
            const NAMES: &[&str] = &[$(stringify!($name)),*];
            extern "C" {
                static $symbol: [AtomicUsize; NAMES.len()];
            }
            // SAFETY: the table above has one address for each function.
            (NAMES, unsafe { &$symbol })
        }
    };
}

functions! { qdrop_cuda_driver, qdrop_cuda_driver_table, "34",
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit
    cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit
    cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2
    cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2
    cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery
    cuEventRecord cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute
    cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphClone cuGraphDestroy cuGraphExecDestroy
    cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit
    cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel cuMemAdvise_v2 cuMemAllocAsync
    cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost cuMemFree_v2
    cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute
    cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2
    cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync
    cuMemsetD8Async cuMemsetD8_v2 cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData
    cuModuleUnload cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture
    cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

functions! { qdrop_cuda_compiler, qdrop_cuda_compiler_table, "11",
    nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetCUBIN nvrtcGetCUBINSize nvrtcGetPTX
    nvrtcGetPTXSize nvrtcGetProgramLog nvrtcGetProgramLogSize nvrtcVersion
}

functions! { qdrop_cuda_blas, qdrop_cuda_blas_table, "1",
    cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2
    cublasGemmEx cublasGemmGroupedBatchedEx cublasGemmStridedBatchedEx cublasGetPointerMode_v2
    cublasSasum_v2 cublasSetPointerMode_v2 cublasSetStream_v2 cublasSgemmStridedBatched cublasSgemm_v2
    cublasSgemv_v2
}

functions! { qdrop_cuda_light_blas, qdrop_cuda_light_blas_table, "1",
    cublasLtCreate cublasLtDestroy cublasLtLoggerOpenFile cublasLtLoggerSetLevel cublasLtMatmul
    cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate cublasLtMatmulDescDestroy
    cublasLtMatmulDescSetAttribute cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy
    cublasLtMatmulPreferenceSetAttribute cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy
    cublasLtMatrixLayoutSetAttribute
}

functions! { qdrop_cuda_random, qdrop_cuda_random_table, "203",
    curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal
    curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal curandGenerateNormalDouble
    curandGeneratePoisson curandGenerateUniform curandGenerateUniformDouble curandSetGeneratorOffset
    curandSetPseudoRandomGeneratorSeed curandSetStream
}

// Functions of the CUDA runtime, which stay as they are.
code! { qdrop_cuda_runtime, qdrop_cuda_runtime_table, "0",
    __cudaRegisterFatBinary __cudaRegisterFatBinaryEnd __cudaUnregisterFatBinary __cudaRegisterFunction
    __cudaRegisterVar __cudaPushCallConfiguration __cudaPopCallConfiguration __cudaInitModule __cudaGetKernel
    __cudaLaunchKernel cudaLaunchKernel cudaLaunchKernelExC cudaMemsetAsync cudaMallocAsync cudaFreeAsync
    cudaGetLastError cudaGetErrorString cudaGetDevice cudaFuncSetAttribute
}

/// All libraries that a GPU needs.
fn all() -> [Known; 5] {
    let known = |id, what, files, (functions, table)| Known { id, what, files, functions, table };
    [
        known(Id::Driver, "the driver of NVIDIA's GPUs", &["libcuda.so.1", "libcuda.so"][..], qdrop_cuda_driver()),
        known(
            Id::Compiler,
            "NVRTC of the CUDA toolkit",
            &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            qdrop_cuda_compiler(),
        ),
        known(
            Id::Blas,
            "cuBLAS of the CUDA toolkit",
            &["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
            qdrop_cuda_blas(),
        ),
        known(
            Id::LightBlas,
            "cuBLASLt of the CUDA toolkit",
            &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            qdrop_cuda_light_blas(),
        ),
        known(Id::Random, "cuRAND of the CUDA toolkit", &["libcurand.so.10", "libcurand.so"], qdrop_cuda_random()),
    ]
}

/// A library that was looked for.
#[derive(Debug, Clone)]
pub struct Library {
    pub id: Id,
    /// What it is, and where it comes from.
    pub what: &'static str,
    /// Names under which it is looked for.
    pub names: Vec<&'static str>,
    /// The name under which it was found.
    pub found: Option<&'static str>,
}

/// Opens all libraries, once in a process.
pub fn open() -> &'static [Library] {
    static OPENED: OnceLock<Vec<Library>> = OnceLock::new();
    OPENED.get_or_init(|| {
        // The driver is the first, and its version is asked for as soon as it is open.
        let mut driver = None;
        let libraries = all().into_iter().map(|known| {
            let library = find(known, driver);
            if library.id == Id::Driver {
                driver = driver_version().map(|version| version / 1000);
            }
            library
        });
        libraries.collect()
    })
}

/// The driver's version, such as 12040 for 12.4, if it is there.
pub fn driver_version() -> Option<i32> {
    let mut version = 0;
    // SAFETY: the number outlives the call.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    asked.result().is_ok().then_some(version)
}

/// Whether a driver of this major version can run what a library compiles or holds: those of a newer major version need a newer
/// driver.
fn is_for(file: &str, driver: Option<i32>) -> bool {
    let major = file.rsplit('.').next().and_then(|number| number.parse::<i32>().ok());
    driver.zip(major).is_none_or(|(driver, major)| major <= driver)
}

/// What is missing for a GPU, and what to do about it.
pub fn missing() -> Option<String> {
    let missing: Vec<String> = open()
        .iter()
        .filter(|library| library.found.is_none())
        .map(|library| format!("{} ({})", library.what, library.names.first().unwrap_or(&"of any version")))
        .collect();
    let remedy = match open().iter().any(|library| library.id == Id::Driver && library.found.is_none()) {
        true => "install the driver of a GPU (and the CUDA toolkit's libraries)",
        false => "install the CUDA toolkit's libraries, or add their folder to LD_LIBRARY_PATH",
    };
    (!missing.is_empty()).then(|| format!("not found: {}; {remedy}", missing.join(", ")))
}

fn find(known: Known, driver: Option<i32>) -> Library {
    let Known { id, what, files, functions, table } = known;
    let names: Vec<&'static str> = files.iter().copied().filter(|file| is_for(file, driver)).collect();
    // SAFETY: the initialization of these libraries has no conditions.
    let open = |file: &&'static str| Some((*file, unsafe { libloading::Library::new(*file) }.ok()?));
    let Some((file, library)) = names.iter().find_map(open) else {
        return Library { id, what, names, found: None };
    };
    for (name, place) in functions.iter().zip(table) {
        let symbol = CString::new(*name).ok();
        // SAFETY: only its address is taken. A function that the library lacks keeps returning the code of a failure.
        let address = symbol.and_then(|s| unsafe { library.get::<*const ()>(s.as_bytes_with_nul()) }.ok().map(|f| *f));
        if let Some(address) = address {
            place.store(address as usize, Ordering::Release);
        }
    }
    // The functions are used as long as the process lives.
    std::mem::forget(library);
    Library { id, what, names, found: Some(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_not_newer_than_the_driver() {
        let fit = |driver| {
            let files = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "libcurand.so.10"];
            files.map(|file| is_for(file, driver))
        };
        assert_eq!(fit(None), [true; 4]);
        assert_eq!(fit(Some(13)), [true; 4]);
        assert_eq!(fit(Some(12)), [false, true, true, true]);
    }
}
