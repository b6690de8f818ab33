//! Runs another command that measures the same.

use anyhow::{bail, Context, Result};
use std::process::Command;

/// The command, which takes a name and `--iters`, `--threads` and `--batch`, and prints JSON with `median_ms`.
pub struct Other<'a> {
    /// The program and its first arguments.
    pub command: &'a str,
    /// Number of measurements, of which the command reports the median.
    pub iters: usize,
}

impl Other<'_> {
    /// The median in milliseconds that the command reports.
    pub fn median_ms(&self, name: &str, batch: usize) -> Result<f64> {
        let threads = rayon::current_num_threads();
        let line = format!("{} {name} --iters {} --threads {threads} --batch {batch}", self.command, self.iters);
        let output = Command::new("sh").args(["-c", &line]).output().context("running the other command")?;
        if !output.status.success() {
            bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` should print one JSON object"))?;
        value["median_ms"].as_f64().with_context(|| format!("`{line}` printed no median_ms"))
    }
}
