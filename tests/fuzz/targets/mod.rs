//! One target for each reader: its seeds, and what it does with a file.

pub mod annotations;
pub mod class_list;
pub mod idx;
pub mod image;
pub mod numpy;
pub mod onnx;
pub mod packed;
pub mod packed_description;
pub mod pickle;
pub mod plugin;
pub mod recipe;
pub mod run_directory;
pub mod weights;

use super::allocator;
use qdrop_core::dataset::{Dataset, DatasetRequest, Split};
use qdrop_core::params::Params;
use qdrop_core::pipeline::Registries;
use qdrop_core::target::TargetSpec;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A reader to fuzz.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Files that it reads, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads a file. Returns whether it was accepted.
    pub read: fn(&[u8]) -> bool,
    /// The largest allocation in bytes for a file of this length.
    pub allowed: fn(usize) -> usize,
}

/// All targets, for programs that are given a name.
#[allow(dead_code)]
pub const ALL: [&Target; 13] = [
    &annotations::TARGET,
    &class_list::TARGET,
    &idx::TARGET,
    &image::TARGET,
    &numpy::TARGET,
    &onnx::TARGET,
    &packed::TARGET,
    &packed_description::TARGET,
    &pickle::TARGET,
    &plugin::TARGET,
    &recipe::TARGET,
    &run_directory::TARGET,
    &weights::TARGET,
];

/// What readers other than those of images and compressed files may allocate at once: buffers of fixed size, and some
/// times the length of the file.
pub fn a_few_times(length: usize) -> usize {
    (1 << 20) + 64 * length
}

/// Reads a file and checks the allocations. Returns whether it was accepted.
///
/// # Panics
/// An allocation was too large.
pub fn check(target: &Target, bytes: &[u8]) -> bool {
    allocator::take_largest();
    let accepted = (target.read)(bytes);
    let (largest, allowed) = (allocator::take_largest(), (target.allowed)(bytes.len()));
    assert!(largest <= allowed, "{} allocated {largest} bytes at once for a file of {}", target.name, bytes.len());
    accepted
}

/// A folder in memory where the system has one.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

/// Writes the file of a target into its folder.
fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Opens the evaluation images of a dataset in `folder`.
fn open(
    name: &str,
    params: &str,
    folder: &TempDir,
    input: [usize; 3],
    classes: usize,
) -> qdrop_core::Result<Box<dyn Dataset>> {
    let request = DatasetRequest {
        split: Split::Evaluation,
        seed: 0,
        input,
        targets: TargetSpec::Class { classes },
        root: Some(folder.path().into()),
        base_dir: "".into(),
    };
    let params = Params::new("data.params", serde_yaml::from_str(params).unwrap());
    registries().datasets.get(name, "data").unwrap().build(&params, &request)
}

/// A file of the repository, in which the package that is compiled lies.
fn repository(name: &str) -> Vec<u8> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = package.ancestors().map(|folder| folder.join(name)).find(|file| file.is_file());
    std::fs::read(file.unwrap_or_else(|| panic!("there is no {name}"))).unwrap()
}

/// Everything that the built-in crates register.
fn registries() -> &'static Registries {
    static REGISTRIES: OnceLock<Registries> = OnceLock::new();
    REGISTRIES.get_or_init(|| Registries::collect().unwrap())
}
