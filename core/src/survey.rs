//! What a machine has for computing on GPUs.

use serde::Serialize;

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
