//! What the command writes to stdout and stderr.
//!
//! A result on stdout that cannot be written is an error, which reaches the exit status. Text on stderr is for readers: a run does not
//! stop because nobody can read it.

use anyhow::Result;
use std::io::{ErrorKind, Write};

/// Where results are printed: stdout, or stderr when stdout is for JSON.
#[derive(Clone, Copy)]
pub struct Output {
    /// Whether stdout is for JSON.
    pub json: bool,
}

impl Output {
    /// Prints a part of the result.
    pub fn print(self, text: &str) -> Result<()> {
        match self.json {
            true => note(text),
            false => result(text)?,
        }
        Ok(())
    }
}

/// A result could not be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result to stdout: {0}")]
pub struct Unwritten(std::io::Error);

impl Unwritten {
    /// Whether the reader has closed the pipe, as `head` does when it has enough. Nobody is told then.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Writes to stdout.
pub fn result(text: &str) -> Result<(), Unwritten> {
    let mut stdout = std::io::stdout().lock();
    // Flushed, so that an error is reported here and not lost at the end of the process.
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Unwritten)
}

/// Prints what clap has to say: help and the version to stdout; wrong usage to stderr, and as JSON on stdout if that is
/// wanted.
pub fn usage(message: &clap::Error, json: bool) -> Result<(), Unwritten> {
    let printed = message.print();
    if !message.use_stderr() {
        return printed.and_then(|()| std::io::stdout().flush()).map_err(Unwritten);
    }
    if json {
        let text = message.to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        failed(what.strip_prefix("error: ").unwrap_or(what));
    }
    Ok(())
}

/// Writes to stderr if possible.
pub fn note(text: &str) {
    // There is no other place to report that stderr cannot be written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Reports why the command failed: on stderr, and as JSON on stdout if that is wanted.
pub fn failure(message: &str, json: bool) {
    note(&format!("error: {message}\n"));
    if json {
        failed(message);
    }
}

/// The JSON line of a command that failed.
fn failed(message: &str) {
    let value = serde_json::Value::from_iter([("error", message)]);
    // The exit status says that the command has failed.
    let _ = result(&format!("{value}\n"));
}
