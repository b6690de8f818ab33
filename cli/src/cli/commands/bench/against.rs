//! Runs another command that measures the same.

use crate::cli::interrupt::output_of;
use anyhow::{bail, Context, Result};
use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// The command, which takes a name and `--iters`, `--threads` and `--batch`, and prints JSON with `median_ms`.
pub struct Other<'a> {
    /// The program and its first arguments.
    pub command: &'a OsStr,
    /// Number of measurements, of which the command reports the median.
    pub iters: usize,
}

impl Other<'_> {
    /// The median in milliseconds that the command reports.
    pub fn median_ms(&self, name: &str, batch: usize) -> Result<f64> {
        let threads = rayon::current_num_threads();
        let mut line = self.command.to_os_string();
        line.push(format!(" {name} --iters {} --threads {threads} --batch {batch}", self.iters));
        let output = output_of(Command::new("sh").arg("-c").arg(&line).stderr(Stdio::piped()));
        let (output, line) = (output.context("running the other command")?, line.display());
        if !output.status.success() {
            bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` should print one JSON object"))?;
        value["median_ms"].as_f64().with_context(|| format!("`{line}` printed no median_ms"))
    }
}
