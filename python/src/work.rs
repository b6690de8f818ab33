//! Long work on a thread of its own, while the thread of Python waits for its events and for signals.

use crate::error::{defect, python_error};
use pyo3::prelude::*;
use qdrop::core::progress::{Event, Progress};
use qdrop::Result;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two looks at Python's signals.
const LOOK: Duration = Duration::from_millis(50);
/// How long work that was asked to stop is waited for. It may be in the middle of a long computation, and ends by itself when
/// that is done.
const PATIENCE: Duration = Duration::from_millis(300);

/// Runs `work`. `listener` is called with the name of each event and its values. If it raises an exception, or a handler of a
/// signal does (Ctrl-C), the work is asked to stop, and the exception is the result.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    listener: Py<PyAny>,
    work: impl FnOnce(&dyn Progress) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let events = Events { sender, stop: stop.clone() };
    let worker = thread::Builder::new().name("qdrop".into()).spawn(move || work(&events));
    let worker = worker.map_err(|error| defect(py, &format!("cannot start a thread: {error}")))?;
    loop {
        let received;
        (receiver, received) = py.detach(move || {
            let received = receiver.recv_timeout(LOOK);
            (receiver, received)
        });
        let heard = match received {
            Ok(message) => message.tell(py, &listener),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            // The work is done, and its events with it.
            Err(RecvTimeoutError::Disconnected) => return finish(py, worker),
        };
        if let Err(exception) = heard.and_then(|()| py.check_signals()) {
            stop.store(true, SeqCst);
            py.detach(|| {
                let start = Instant::now();
                while !worker.is_finished() && start.elapsed() < PATIENCE {
                    thread::sleep(Duration::from_millis(5));
                }
            });
            return Err(exception);
        }
    }
}

/// The result of work that is done.
fn finish<T: Send>(py: Python<'_>, worker: JoinHandle<Result<T>>) -> PyResult<T> {
    match py.detach(|| worker.join()) {
        Ok(result) => result.map_err(|error| python_error(py, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(defect(py, &format!("panicked: {text}")))
        }
    }
}

/// What the listener is told.
enum Message {
    Started { stage: String, total: usize },
    Advanced { done: usize, note: String },
    Finished,
    Line(String),
    Warning(String),
}

impl Message {
    fn tell(self, py: Python<'_>, listener: &Py<PyAny>) -> PyResult<()> {
        match self {
            Self::Started { stage, total } => listener.call_method1(py, "started", (stage, total)),
            Self::Advanced { done, note } => listener.call_method1(py, "advanced", (done, note)),
            Self::Finished => listener.call_method0(py, "finished"),
            Self::Line(text) => listener.call_method1(py, "line", (text,)),
            Self::Warning(text) => listener.call_method1(py, "warning", (text,)),
        }
        .map(|_| ())
    }
}

/// Sends events to the thread of Python. No thread of the library touches Python.
struct Events {
    sender: Sender<Message>,
    stop: Arc<AtomicBool>,
}

impl Progress for Events {
    fn event(&self, event: Event<'_>) {
        let message = match event {
            Event::Started { stage, total } => Message::Started { stage: stage.into(), total },
            Event::Advanced(done) => Message::Advanced { done, note: String::new() },
            Event::Step { step, loss } => {
                Message::Advanced { done: step, note: format!("loss {:.5}", loss.reconstruction) }
            }
            Event::Finished => Message::Finished,
            Event::Variant { name } => Message::Line(format!("{name}:")),
            Event::Prepared { name, changes } => {
                Message::Line(format!("{name}: {} parts of the network", changes.len()))
            }
            Event::Unit { number, of, report } => {
                let loss = |last| report.mean_losses(last).map_or(0.0, |loss| loss.reconstruction);
                let (name, first, last) = (&report.name, loss(false), loss(true));
                Message::Line(format!("unit {number}/{of} {name}: reconstruction {first:.5} -> {last:.5}"))
            }
            // Which engine computes a unit matters to its time alone.
            Event::Generic { .. } | Event::GenericRest { .. } => return,
            Event::Warning(text) => Message::Warning(text),
        };
        // Nobody listens after a stop.
        let _ = self.sender.send(message);
    }

    fn cancelled(&self) -> bool {
        self.stop.load(SeqCst)
    }
}
