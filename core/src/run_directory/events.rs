//! The event log of a run, as JSON lines.

use super::{RunDirectory, EVENTS_FILE};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::progress::{Event, Progress};
use serde_json::Value;
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
        let content = serde_json::to_value(Machine::this()).map(|machine| {
            let (id, version) = (Value::from(std::process::id()), Value::from(env!("CARGO_PKG_VERSION")));
            Value::from_iter([("id", id), ("version", version), ("machine", machine)])
        });
        log.write(&mut log.lock(), "process", content);
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

    fn write(&self, state: &mut State, event: &str, content: serde_json::Result<Value>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = content.map_err(Into::into).and_then(|mut content| {
            content["time"] = now.as_secs_f64().into();
            content["event"] = event.into();
            // One system call per line, so that a line is written whole or not at all.
            state.file.write_all(format!("{content}\n").as_bytes())
        });
        if let Err(e) = written {
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
                let content = [("stage", Value::from(*stage)), ("total", (*total).into())];
                self.write(&mut state, "started", Ok(Value::from_iter(content)));
            }
            // About a hundred steps of each unit are logged, because a run has hundreds of thousands.
            Event::Step { step, loss } if *step == state.total || step % (state.total / 100).max(1) == 0 => {
                let stage = Value::from(state.stage.as_str());
                let content = serde_json::to_value(loss)
                    .map(|loss| Value::from_iter([("stage", stage), ("step", (*step).into()), ("loss", loss)]));
                self.write(&mut state, "step", content);
            }
            Event::Step { .. } | Event::Advanced(_) => {}
            Event::Finished => {
                let content = Value::from_iter([("stage", state.stage.as_str())]);
                self.write(&mut state, "finished", Ok(content));
            }
            Event::Prepared { name, changes } => {
                let content = serde_json::to_value(changes)
                    .map(|changes| Value::from_iter([("name", Value::from(*name)), ("changes", changes)]));
                self.write(&mut state, "prepared", content);
            }
            Event::Unit { number, of, report } => {
                let losses = serde_json::to_value([report.mean_losses(false), report.mean_losses(true)]);
                let content = losses.map(|losses| {
                    Value::from_iter([
                        ("number", Value::from(*number)),
                        ("of", (*of).into()),
                        ("unit", report.name.as_str().into()),
                        ("seconds", report.seconds.into()),
                        ("first", losses[0].clone()),
                        ("last", losses[1].clone()),
                        ("soft_share", report.soft_share.into()),
                        ("kept_step", report.kept.as_ref().map(|kept| kept.step).into()),
                        ("kept_loss", report.kept.as_ref().map(|kept| kept.loss).into()),
                        ("hard_loss", report.hard.last().map(|hard| hard.loss).into()),
                        ("memory_bytes", report.memory_bytes.into()),
                    ])
                });
                self.write(&mut state, "unit", content);
            }
            Event::Generic { unit, why } => {
                self.write(&mut state, "generic", Ok(Value::from_iter([("unit", *unit), ("why", *why)])));
            }
            Event::GenericRest { unit, why } => {
                self.write(&mut state, "generic_rest", Ok(Value::from_iter([("unit", *unit), ("why", *why)])));
            }
            Event::Variant { name } => self.write(&mut state, "variant", Ok(Value::from_iter([("name", *name)]))),
            Event::Warning(text) => {
                self.write(&mut state, "warning", Ok(Value::from_iter([("text", text.as_str())])));
            }
        }
        drop(state);
        self.next.event(event);
    }

    fn cancelled(&self) -> bool {
        self.lock().failure.is_some() || self.next.cancelled()
    }
}
