//! The event log of a run, as JSON lines.

use super::{RunDirectory, EVENTS_FILE};
use crate::error::{Error, Result};
use crate::progress::{Event, Progress};
use serde_json::{json, Value};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes events to the run's log and forwards them.
///
/// If the log cannot be written, the run stops: [`Progress::cancelled`] becomes true and
/// [`check`](Self::check) returns the error.
pub struct EventLog<'a> {
    next: &'a dyn Progress,
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    failure: Option<std::io::Error>,
    stage: String,
    total: usize,
}

impl<'a> EventLog<'a> {
    /// Opens the log of `directory` to append to it. Events are also forwarded to `next`.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn open(directory: &RunDirectory, next: &'a dyn Progress) -> Result<Self> {
        let path = directory.path().join(EVENTS_FILE);
        let file = File::options().append(true).create(true).open(&path).map_err(Error::io("open", &path))?;
        let state = State { file, failure: None, stage: String::new(), total: 0 };
        let log = Self { next, path, state: Mutex::new(state) };
        log.write(
            &mut log.lock(),
            "process",
            json!({ "id": std::process::id(), "version": env!("CARGO_PKG_VERSION") }),
        );
        Ok(log)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Checks that all events were written.
    ///
    /// # Errors
    /// An event could not be written.
    pub fn check(&self) -> Result<()> {
        self.lock().failure.take().map_or(Ok(()), |e| Err(Error::io("write", &self.path)(e)))
    }

    fn write(&self, state: &mut State, event: &str, mut content: Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        content["time"] = json!(now.as_secs_f64());
        content["event"] = json!(event);
        // One system call per line, so that a line is written whole or not at all.
        if let Err(e) = state.file.write_all(format!("{content}\n").as_bytes()) {
            state.failure.get_or_insert(e);
        }
    }
}

impl Progress for EventLog<'_> {
    fn event(&self, event: Event<'_>) {
        let mut state = self.lock();
        match &event {
            Event::Started { stage, total } => {
                (state.stage, state.total) = ((*stage).into(), *total);
                self.write(&mut state, "started", json!({ "stage": stage, "total": total }));
            }
            // About a hundred steps of each unit are logged, because a run has hundreds of thousands.
            Event::Step { step, loss } if *step == state.total || step % (state.total / 100).max(1) == 0 => {
                let content = json!({ "stage": state.stage, "step": step, "loss": loss });
                self.write(&mut state, "step", content);
            }
            Event::Step { .. } | Event::Advanced(_) => {}
            Event::Finished => {
                let content = json!({ "stage": state.stage });
                self.write(&mut state, "finished", content);
            }
            Event::Unit { number, of, report } => {
                let (first, last) = (report.mean_losses(false), report.mean_losses(true));
                let content = json!({
                    "number": number, "of": of, "unit": report.name, "seconds": report.seconds, "first": first, "last": last
                });
                self.write(&mut state, "unit", content);
            }
            Event::Generic { unit, why } => {
                self.write(&mut state, "generic", json!({ "unit": unit, "why": why }));
            }
            Event::Variant { name } => self.write(&mut state, "variant", json!({ "name": name })),
            Event::Warning(text) => self.write(&mut state, "warning", json!({ "text": text })),
        }
        drop(state);
        self.next.event(event);
    }

    fn cancelled(&self) -> bool {
        self.lock().failure.is_some() || self.next.cancelled()
    }
}
