//! The machine that a process runs on, for reports.

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
        let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let (processors, memory) = (text("/proc/cpuinfo"), text("/proc/meminfo"));
        let value = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start_matches([' ', '\t', ':']).trim().to_string())
        };
        let kibibytes =
            value(&memory, "MemTotal:").and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: value(&processors, "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes.map(|kibibytes| kibibytes * 1024),
        }
    }
}
