//! What a machine has for computing on GPUs.

use super::{compile, cudnn, libraries};
use crate::survey::{Gpu, Software, Survey};
use candle_core::cuda_backend::cudarc::driver::result::{device, init};
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;

/// Looks at everything, without an error: what is missing is said.
pub fn survey() -> Survey {
    let version = |major: i32, minor: i32| format!("{major}.{minor}");
    let software = libraries::open().iter().map(|library| Software {
        what: library.what.into(),
        file: library.found.map(Into::into),
        looked_for: library.names.iter().map(|name| (*name).into()).collect(),
        version: match library.id {
            libraries::Id::Driver => libraries::driver_version().map(|v| version(v / 1000, v % 1000 / 10)),
            libraries::Id::Compiler => compile::version().map(|(major, minor)| version(major, minor)),
            libraries::Id::Blas | libraries::Id::LightBlas | libraries::Id::Random => None,
        },
        needed: true,
        without: "no GPU can be used".into(),
    });
    let mut software: Vec<Software> = software.collect();
    let (file, number) = cudnn::found();
    software.push(Software {
        what: "cuDNN 9".into(),
        file: file.map(Into::into),
        looked_for: cudnn::NAMES.map(Into::into).into(),
        version: number.map(|n| format!("{}.{}.{}", n / 10_000, n / 100 % 100, n % 100)),
        needed: false,
        without: "kernels of qdrop compute all convolutions, more slowly".into(),
    });
    let (gpus, problem) = match libraries::missing() {
        Some(missing) => (Vec::new(), Some(missing)),
        None => match gpus() {
            Ok(gpus) if gpus.is_empty() => (gpus, Some("the driver finds no GPU; check `nvidia-smi`".into())),
            Ok(gpus) => (gpus, None),
            Err(e) => (Vec::new(), Some(format!("the driver does not start: {e}; check `nvidia-smi`"))),
        },
    };
    Survey { cuda_build: true, software, gpus, problem }
}

fn gpus() -> Result<Vec<Gpu>, candle_core::cuda_backend::cudarc::driver::DriverError> {
    init()?;
    (0..device::get_count()?)
        .map(|index| {
            let gpu = device::get(index)?;
            // SAFETY: the device was just found.
            let memory = unsafe { device::total_mem(gpu) }?;
            let [major, minor] = [
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            ]
            // SAFETY: the device was just found.
            .map(|what| unsafe { device::get_attribute(gpu, what) });
            Ok(Gpu {
                index: index as usize,
                name: device::get_name(gpu)?,
                memory: memory as u64,
                capability: format!("{}.{}", major?, minor?),
            })
        })
        .collect()
}
