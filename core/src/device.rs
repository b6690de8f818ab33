//! Opens the device that computes.

use crate::error::{Error, Result};
use candle_core::Device;

/// Opens the device `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`Error::Device`]: the name is unknown, the build has no CUDA support, or there is no such GPU.
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
    if !candle_core::utils::cuda_is_available() {
        let message = "this build has no CUDA support; rebuild with `--features cuda` or use --device cpu";
        return Err(error(message.into()));
    }
    // The CUDA bindings panic when the driver library is missing.
    match std::panic::catch_unwind(|| Device::new_cuda_with_stream(index)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(e)) => Err(error(format!("{e}; check `nvidia-smi` or use --device cpu"))),
        Err(_) => Err(error("the CUDA driver library is missing; install it or use --device cpu".into())),
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
        if !candle_core::utils::cuda_is_available() {
            assert!(open("cuda").unwrap_err().to_string().contains("--features cuda"));
        }
    }
}
