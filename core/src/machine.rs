//! The machine that a process runs on, for reports.

use crate::memory;
use serde::{Deserialize, Serialize};

/// The machine that a process runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Operating system and architecture, such as `linux x86_64`.
    pub system: String,
    /// Name of the processor, if the system says it.
    pub processor: Option<String>,
    /// Number of threads that this process may use at once.
    pub cores: usize,
    /// Bytes of memory, if the system says it.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: processor.map(|name| name.trim_start_matches([' ', '\t', ':']).trim().to_string()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory::total(),
        }
    }
}
