//! Compiles the kernels for a device, once for each source, device and compiler.

use super::super::source::OPTIONS;
use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::path::PathBuf;

/// Machine code for a compute capability such as "sm_90": from the cache, or newly compiled.
///
/// # Errors
/// NVRTC does not answer, or refuses the source; the message has what it said.
pub fn machine_code(source: &str, arch: &str) -> Result<Vec<u8>> {
    let (major, minor) = version().ok_or_else(|| Error::message("NVRTC does not tell its version"))?;
    let key = format!("{major}.{minor} {arch} {OPTIONS:?} {source}");
    let name: String = Sha256::digest(key.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect();
    let file = folder().map(|folder| folder.join(format!("{name}.cubin")));
    if let Some(code) = file.as_ref().and_then(|file| std::fs::read(file).ok()) {
        return Ok(code);
    }
    let code = compile(source, arch)?;
    // Without a cache the next process compiles again.
    if let Some(file) = file {
        let _ = keep(&file, &code);
    }
    Ok(code)
}

/// The version of NVRTC, if it is there.
pub fn version() -> Option<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both numbers outlive the call.
    let asked = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    asked.result().is_ok().then_some((major, minor))
}

/// The user's cache folder.
fn folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or_else(home).map(|folder| folder.join("qdrop"))
}

/// Writes the code so that a file with its name is complete.
fn keep(file: &std::path::Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| std::path::Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, code)?;
    temporary.persist(file)?;
    Ok(())
}

fn compile(source: &str, arch: &str) -> Result<Vec<u8>> {
    let failed = |what: String| Error::message(format!("NVRTC cannot compile the kernels for {arch}: {what}"));
    let text = CString::new(source).map_err(|e| failed(e.to_string()))?;
    let program = result::create_program(&text, Some(c"qdrop.cu")).map_err(|e| failed(e.to_string()))?;
    let arch = format!("--gpu-architecture={arch}");
    let options: Vec<&str> = OPTIONS.into_iter().chain([arch.as_str()]).collect();
    // SAFETY: the program lives until it is destroyed below, and sizes are the library's own.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let mut size = 0;
        sys::nvrtcGetProgramLogSize(program, &mut size);
        let mut log = vec![0_u8; size];
        sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        let code = compiled.map_err(|e| format!("{e}\n{}", String::from_utf8_lossy(&log))).and_then(|()| {
            sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(|e| e.to_string())?;
            let mut code = vec![0_u8; size];
            sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result().map_err(|e| e.to_string())?;
            Ok(code)
        });
        result::destroy_program(program).map_err(|e| failed(e.to_string()))?;
        code.map_err(failed)
    }
}
