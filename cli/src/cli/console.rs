//! Progress on stderr: bars on a terminal, otherwise plain lines.

use super::interrupt;
use super::output::note;
use crate::report::duration;
use indicatif::{ProgressBar, ProgressStyle};
use qdrop_core::preparation::Change;
use qdrop_core::progress::{Event, Progress};
use qdrop_core::report::LossPoint;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows progress on stderr.
pub struct Console {
    terminal: bool,
    said_generic: AtomicBool,
    said_generic_rest: AtomicBool,
    current: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    total: usize,
    start: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Console {
    /// Uses bars if stderr is a terminal.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            said_generic: AtomicBool::new(false),
            said_generic_rest: AtomicBool::new(false),
            current: Mutex::new(None),
        }
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        let current = self.current.lock().unwrap_or_else(|e| e.into_inner());
        match current.as_ref().and_then(|s| s.bar.as_ref()) {
            Some(bar) => bar.suspend(|| note(&format!("{text}\n"))),
            None => note(&format!("{text}\n")),
        }
    }

    fn start(&self, name: &str, total: usize) -> Stage {
        let bar = self.terminal.then(|| {
            let template = "{prefix:24} [{bar:32}] {pos}/{len} {elapsed} eta {eta} {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total as u64).with_style(style.progress_chars("=> ")).with_prefix(name.to_string())
        });
        let now = Instant::now();
        Stage { name: name.into(), total, start: now, bar, last_line: now }
    }
}

impl Stage {
    fn advance(&mut self, done: usize, message: impl Fn() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done as u64);
                bar.set_message(message());
            }
            None if self.last_line.elapsed() >= LINE_EVERY && done > 0 => {
                self.last_line = Instant::now();
                let elapsed = self.start.elapsed().as_secs_f64();
                let eta = elapsed / done as f64 * (self.total - done.min(self.total)) as f64;
                let (name, total, eta) = (&self.name, self.total, duration(eta));
                note(&format!("{name}: {done}/{total} eta {eta} {}\n", message()));
            }
            None => {}
        }
    }
}

/// What a preparation did, in one line.
fn prepared(name: &str, changes: &[Change]) -> String {
    let first = changes.iter().take(1).map(|change| format!(", such as {}: {}", change.part, change.what));
    format!("{name}: {} parts of the network{}", changes.len(), first.collect::<String>())
}

fn losses(loss: &LossPoint) -> String {
    format!("reconstruction {:.5} rounding {:.4}", loss.reconstruction, loss.rounding)
}

impl Progress for Console {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }

    fn event(&self, event: Event<'_>) {
        match &event {
            Event::Warning(text) => return self.line(&format!("warning: {text}")),
            Event::Variant { name } => return self.line(&format!("{name}:")),
            Event::Prepared { name, changes } => return self.line(&prepared(name, changes)),
            _ => {}
        }
        let mut current = self.current.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::Started { stage, total } => *current = Some(self.start(stage, total)),
            Event::Advanced(done) => {
                if let Some(stage) = current.as_mut() {
                    stage.advance(done, String::new);
                }
            }
            Event::Step { step, loss } => {
                interrupt::step();
                if let Some(stage) = current.as_mut() {
                    stage.advance(step, || losses(&loss));
                }
            }
            Event::Finished => {
                if let Some(stage) = current.take() {
                    if let Some(bar) = stage.bar {
                        bar.finish_and_clear();
                    }
                }
            }
            Event::Unit { number, of, report } => {
                let first = report.mean_losses(false).map_or(0.0, |l| l.reconstruction);
                let last = report.mean_losses(true).unwrap_or(LossPoint { reconstruction: 0.0, rounding: 0.0, b: 0.0 });
                let (last, rounding, time) = (last.reconstruction, last.rounding, duration(report.seconds));
                let kept = report.kept.as_ref().map_or_else(String::new, |kept| {
                    format!(", kept that of step {} with {:.5}", kept.step, kept.loss)
                });
                let soft = report
                    .soft_share
                    .map_or_else(String::new, |share| format!(", {:.1} % of the roundings unsettled", 100.0 * share));
                note(&format!(
                    "unit {number}/{of} {}: reconstruction {first:.5} -> {last:.5}, rounding {rounding:.4}{soft}{kept} \
                     ({time})\n",
                    report.name
                ));
                interrupt::checkpoint();
            }
            Event::Generic { unit, why } => {
                // Printed only once, because the same is usually true of other units.
                if !self.said_generic.swap(true, Ordering::Relaxed) {
                    note(&format!(
                        "unit {unit} (perhaps others too) is reconstructed by the generic engine, which is slower: {why}\n"
                    ));
                }
            }
            Event::GenericRest { unit, why } => {
                if !self.said_generic_rest.swap(true, Ordering::Relaxed) {
                    note(&format!(
                        "a part of the network after unit {unit} (perhaps after others too), which its loss needs, is computed \
                         operation by operation, which is slower: {why}\n"
                    ));
                }
            }
            // Already printed above.
            Event::Variant { .. } | Event::Prepared { .. } | Event::Warning(_) => {}
        }
    }
}
