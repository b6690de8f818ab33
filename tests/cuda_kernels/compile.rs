//! NVRTC compiles the kernels for GPUs, as a machine with one does.

use libloading::Library;
use qdrop_core::cuda::{OPTIONS, SOURCE};
use std::ffi::{c_char, c_int, c_void, CString};

type Program = *mut c_void;

/// NVRTC, if it is there: of the CUDA toolkit, or `pip install nvidia-cuda-nvrtc` with its folder in LD_LIBRARY_PATH.
fn nvrtc() -> Option<Library> {
    // SAFETY: NVRTC's initialization has no conditions.
    ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].into_iter().find_map(|name| unsafe { Library::new(name) }.ok())
}

/// Machine code for a compute capability, and what the compiler said.
fn compile(library: &Library, arch: &str) -> (Vec<u8>, String) {
    macro_rules! call {
        ($name:literal, ($($types:ty),*), $($arguments:expr),*) => {{
            // SAFETY: the functions have these types in NVRTC's header; what they write outlives the calls.
            let status = unsafe {
                let function = library.get::<unsafe extern "C" fn($($types),*) -> c_int>($name).unwrap();
                function($($arguments),*)
            };
            status
        }};
    }
    let source = CString::new(SOURCE).unwrap();
    let (mut program, mut size): (Program, usize) = (std::ptr::null_mut(), 0);
    let (name, none) = (c"qdrop.cu", std::ptr::null::<*const c_char>());
    let created = call!(
        b"nvrtcCreateProgram\0",
        (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char),
        &mut program,
        source.as_ptr(),
        name.as_ptr(),
        0,
        none,
        none
    );
    assert_eq!(created, 0);
    let arch = format!("--gpu-architecture={arch}");
    let options = OPTIONS.into_iter().chain([arch.as_str(), "--ptxas-options=-v"]);
    let options: Vec<CString> = options.map(|option| CString::new(option).unwrap()).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let compiled = call!(
        b"nvrtcCompileProgram\0",
        (Program, c_int, *const *const c_char),
        program,
        pointers.len() as c_int,
        pointers.as_ptr()
    );
    call!(b"nvrtcGetProgramLogSize\0", (Program, *mut usize), program, &mut size);
    let mut log = vec![0_u8; size];
    call!(b"nvrtcGetProgramLog\0", (Program, *mut c_char), program, log.as_mut_ptr().cast());
    let log = String::from_utf8_lossy(&log).into_owned();
    assert_eq!(compiled, 0, "{log}");
    assert_eq!(call!(b"nvrtcGetCUBINSize\0", (Program, *mut usize), program, &mut size), 0);
    let mut code = vec![0_u8; size];
    assert_eq!(call!(b"nvrtcGetCUBIN\0", (Program, *mut c_char), program, code.as_mut_ptr().cast()), 0);
    call!(b"nvrtcDestroyProgram\0", (*mut Program), &mut program);
    (code, log)
}

/// The number before a word.
fn number(text: &str, word: &str) -> usize {
    let before = text[..text.find(word).unwrap()].trim_end();
    before[before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1)..].parse().unwrap()
}

#[test]
fn nvrtc_compiles_the_kernels_without_spills() {
    let Some(library) = nvrtc() else {
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("SKIPPED: kernels are not compiled for GPUs, NVRTC is not there (pip install nvidia-cuda-nvrtc)");
        }
        return;
    };
    for arch in ["sm_80", "sm_90"] {
        let (code, log) = compile(&library, arch);
        assert_eq!(&code[..4], b"\x7fELF", "{arch}");
        for name in ["draw_choices", "forward_clip", "finish_gelu", "convolve_weight", "errors_of_pieces"] {
            assert!(code.windows(name.len()).any(|w| w == name.as_bytes()), "{arch}: {name}");
        }
        // "Compiling entry function 'NAME' for ...", then what it uses.
        let kernels: Vec<&str> = log.split("Compiling entry function '").skip(1).collect();
        assert!(kernels.len() > 80, "{arch}\n{log}");
        for kernel in kernels {
            let name = kernel.split('\'').next().unwrap();
            assert!(kernel.contains("0 bytes spill stores, 0 bytes spill loads"), "{arch}: {kernel}");
            // Two blocks of 256 threads share the 65,536 registers of a multiprocessor; those that keep the windows of a
            // weight's gradient take all of them.
            let most = if name.starts_with("depthwise_weight") { 255 } else { 128 };
            let registers = number(kernel, " registers");
            assert!(registers <= most, "{arch}: {name} uses {registers} registers");
        }
    }
}
