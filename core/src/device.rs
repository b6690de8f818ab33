//! The devices that compute: opening one, and what a machine has.

use crate::error::{Error, Result};
use candle_core::Device;
use serde::Serialize;

/// Opens the device `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`Error::Device`]: the name is unknown, the build has no CUDA support, a library is missing, or there is no such GPU.
pub fn open(name: &str) -> Result<Device> {
    let error = |message: String| Error::Device { device: name.into(), message };
    let index = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => 0,
        Some(("cuda", index)) => {
            index.parse().map_err(|_| error(format!("'{index}' is not a GPU number; write cuda:0")))?
        }
        _ => return Err(error("unknown device; use cpu, cuda or cuda:N".into())),
    };
    if let Some(problem) = problem() {
        return Err(error(format!("{problem}, or use --device cpu")));
    }
    // The bindings panic where a function of the driver is missing.
    match std::panic::catch_unwind(|| Device::new_cuda_with_stream(index)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(e)) => Err(error(format!("{e}; `qdrop devices` lists the GPUs; or use --device cpu"))),
        Err(_) => Err(error("the driver of the GPU is too old for this build; update it, or use --device cpu".into())),
    }
}

/// Why no GPU can be opened, as far as that is known before one is.
fn problem() -> Option<String> {
    #[cfg(feature = "cuda")]
    return crate::cuda::missing();
    #[cfg(not(feature = "cuda"))]
    Some(NO_CUDA.into())
}

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "this build has no CUDA support; rebuild with `--features cuda`";

/// What a machine has for computing on GPUs.
#[derive(Debug, Clone, Serialize)]
pub struct Survey {
    /// Whether this build can use GPUs at all.
    pub cuda_build: bool,
    /// The libraries that this build uses.
    pub software: Vec<Software>,
    /// The GPUs that the driver finds.
    pub gpus: Vec<Gpu>,
    /// Why no GPU can be used, and what to do about it.
    pub problem: Option<String>,
}

/// A library.
#[derive(Debug, Clone, Serialize)]
pub struct Software {
    /// What it is, and where it comes from.
    pub what: String,
    /// The name under which it was found.
    pub file: Option<String>,
    /// The names under which it is looked for.
    pub looked_for: Vec<String>,
    /// Its version, if it says so.
    pub version: Option<String>,
    /// Whether no GPU can be used without it.
    pub needed: bool,
    /// What happens without it.
    pub without: String,
}

/// A GPU.
#[derive(Debug, Clone, Serialize)]
pub struct Gpu {
    /// The N of `cuda:N`.
    pub index: usize,
    /// What the driver calls it.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its compute capability.
    pub capability: String,
}

/// Looks at the machine.
pub fn survey() -> Survey {
    #[cfg(feature = "cuda")]
    return crate::cuda::survey();
    #[cfg(not(feature = "cuda"))]
    Survey { cuda_build: false, software: Vec::new(), gpus: Vec::new(), problem: Some(NO_CUDA.into()) }
}

/// The most memory of a GPU that was allocated at once so far, in bytes; `None` for the CPU.
///
/// # Errors
/// The driver does not answer.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "only a GPU is asked"))]
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok(Some(crate::cuda::Gpu::of(device)?.peak_memory()?)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_devices_say_what_to_do() {
        assert!(open("cpu").is_ok());
        assert!(open("tpu").unwrap_err().to_string().contains("use cpu, cuda or cuda:N"));
        assert!(open("cuda:x").unwrap_err().to_string().contains("write cuda:0"));
        if let Some(problem) = survey().problem {
            let error = open("cuda").unwrap_err().to_string();
            assert!(error.contains(&problem) && error.contains("--device cpu"), "{error}");
        }
    }
}
