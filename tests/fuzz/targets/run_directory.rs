//! The files of a run's directory.

use super::allocator;
use super::{a_few_times, folder, registries, Target};
use qdrop_core::candle_core::{DType, Device, Tensor};
use qdrop_core::params::Params;
use qdrop_core::pipeline::load_saved;
use qdrop_core::run_directory::RunDirectory;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "run_directory", seeds, read, allowed: a_few_times };

/// The files that are read, relative to the directory. The first byte of an input chooses one of them.
const FILES: [&str; 4] = ["run.json", "summary.json", "model.safetensors", "float.json"];

/// A finished run of a small network.
pub(super) fn finished() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let folder = folder();
        let changes = [
            "calibration={images: 8, observe: 8}",
            "evaluation.images=8",
            "compare=[]",
            "model.architecture.params.width=2",
            "reconstruction=none",
        ];
        let mut loader = qdrop::recipes::Loader::new("demo").weights(weights(folder.path()));
        for change in changes {
            loader = loader.set(change);
        }
        let run = qdrop::Run::new(loader.load().unwrap()).unwrap();
        run.out(folder.path().join("run")).unwrap().quantize().unwrap();
        folder
    });
    run.path()
}

/// A checkpoint of the demo's network at width 2.
fn weights(folder: &Path) -> PathBuf {
    let architecture = registries().architectures.get("resnet18", "model").unwrap().build().unwrap();
    let text = "{classes: 10, image_size: 28, in_channels: 1, width: 2, stem: small}";
    let graph = architecture.graph(&Params::new("model", serde_yaml::from_str(text).unwrap())).unwrap();
    let ones = |shape: Vec<usize>| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let tensors: HashMap<_, _> =
        graph.parameter_shapes().into_iter().map(|(name, shape)| (name, ones(shape))).collect();
    let file = folder.join("w.safetensors");
    qdrop_core::candle_core::safetensors::save(&tensors, &file).unwrap();
    file
}

fn seeds() -> Vec<Vec<u8>> {
    let read = |(i, name): (usize, &&str)| {
        [&[i as u8], &std::fs::read(finished().join("run").join(name)).unwrap()[..]].concat()
    };
    FILES.iter().enumerate().map(read).collect()
}

/// Copies of the finished run, one for each thread.
fn copy() -> TempDir {
    let to = folder();
    for entry in std::fs::read_dir(finished().join("run")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    to
}

thread_local!(static COPY: TempDir = copy());

fn read(bytes: &[u8]) -> bool {
    let Some((first, content)) = bytes.split_first() else { return false };
    let name = FILES[usize::from(*first) % FILES.len()];
    COPY.with(|folder| {
        // What the finished run allocated, which the first input starts, is no reader's.
        allocator::take_largest();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let accepted = match name {
            "run.json" => RunDirectory::open(folder.path()).is_ok(),
            "float.json" => RunDirectory::open(folder.path())
                .and_then(|(directory, _)| directory.load::<qdrop::report::Row>(name))
                .is_ok(),
            "summary.json" => qdrop::summary(folder.path()).is_ok(),
            _ => load_saved(folder.path(), registries(), &Device::Cpu).is_ok(),
        };
        std::fs::copy(finished().join("run").join(name), &file).unwrap();
        accepted
    })
}
