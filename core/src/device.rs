//! The devices that compute: opening one, and what a machine has.

pub use crate::survey::{Gpu, Software, Survey};

use crate::error::{Error, Result};
use candle_core::Device;

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
    Device::new_cuda_with_stream(index)
        .map_err(|e| error(format!("{e}; `qdrop devices` lists the GPUs; or use --device cpu")))
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
