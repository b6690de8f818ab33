//! The event log of a run, as far as a report needs it.

use qdrop_core::machine::Machine;
use qdrop_core::report::LossPoint;
use qdrop_core::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// What the event log says.
#[derive(Debug, Default)]
pub struct Log {
    /// The processes that worked on the run.
    pub processes: Vec<Process>,
    /// Each warning once.
    pub warnings: Vec<String>,
    /// The work that was begun last, and the number of its items.
    pub stage: Option<(String, usize)>,
    /// The quantization of several that was begun last, a variant or the recipe itself.
    pub variant: Option<String>,
    /// Number of units, if it is known.
    pub units: Option<usize>,
    /// The unit that learned last, and the losses of its steps that were logged.
    pub unit: Option<(String, Vec<(usize, LossPoint)>)>,
}

/// A process that worked on the run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Process {
    /// When it began, in seconds since 1970.
    pub time: f64,
    /// Version of qdrop.
    pub version: String,
    /// The machine; logs of earlier versions do not say it.
    #[serde(default)]
    pub machine: Option<Machine>,
}

/// One line of the log.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Process(Process),
    Started {
        stage: String,
        total: usize,
    },
    Step {
        stage: String,
        step: usize,
        loss: LossPoint,
    },
    Unit {
        of: usize,
    },
    Variant {
        name: String,
    },
    Warning {
        text: String,
    },
    #[serde(other)]
    Other,
}

impl Log {
    /// Reads the log at `file`; a run that has just begun may have none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        match std::fs::read(file) {
            // Lines that are damaged do not count.
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io("read", file)(e)),
        }
    }

    fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            // A process that was killed may have left part of a line.
            let Ok(parsed) = serde_json::from_str::<Line>(line) else { continue };
            match parsed {
                Line::Process(process) => log.processes.push(process),
                Line::Started { stage, total } => log.stage = Some((stage, total)),
                Line::Step { stage, step, loss } => match &mut log.unit {
                    // A resumed unit may begin again before its last logged step.
                    Some((name, losses)) if *name == stage => {
                        losses.retain(|(earlier, _)| *earlier < step);
                        losses.push((step, loss));
                    }
                    _ => log.unit = Some((stage, vec![(step, loss)])),
                },
                Line::Unit { of } => log.units = Some(of),
                // The units of another quantization follow.
                Line::Variant { name } => (log.unit, log.units, log.variant) = (None, None, Some(name)),
                Line::Warning { text } if !log.warnings.contains(&text) => log.warnings.push(text),
                Line::Warning { .. } | Line::Other => {}
            }
        }
        log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_far_as_it_is_written() {
        let text = r#"{"event":"process","id":7,"version":"0.1.0","time":1.5,"machine":{"system":"linux x86_64","cores":2}}
{"event":"started","stage":"layer1","total":300,"time":2.0}
{"event":"step","stage":"layer1","step":3,"loss":{"reconstruction":2.0,"rounding":0.5,"b":20.0},"time":3.0}
{"event":"step","stage":"layer1","step":6,"loss":{"reconstruction":1.0,"rounding":0.4,"b":20.0},"time":4.0}
{"event":"warning","text":"w","time":4.5}
{"event":"warning","text":"w","time":4.5}
{"event":"process","id":8,"version":"0.1.0","time":5.0}
{"event":"something new","time":5.5}
{"event":"step","stage":"layer1","step":6,"loss":{"reconstruction":0.9,"rounding":0.4,"b":20.0},"time":6.0}
{"event":"unit","number":1,"of":10,"unit":"layer0","time":6.5}
{"event":"variant","name":"no drop","time":6.6}
{"event":"step","stage":"layer0","step":3,"loss":{"reconstruction":7.0,"rounding":0.4,"b":20.0},"time":6.7}
{"event":"step","stage":"la"#;
        let log = Log::parse(text);
        assert_eq!(log.processes.len(), 2);
        assert_eq!(log.processes[0].machine.as_ref().unwrap().system, "linux x86_64");
        assert_eq!(log.processes[1].machine, None);
        // Another quantization has begun since.
        assert_eq!((log.variant.as_deref(), log.units), (Some("no drop"), None));
        assert_eq!(log.unit.as_ref().unwrap().0, "layer0");
        let log = Log::parse(text.split_once("{\"event\":\"variant\"").unwrap().0);
        assert_eq!((log.warnings.len(), log.stage, log.units), (1, Some(("layer1".into(), 300)), Some(10)));
        let (name, losses) = log.unit.unwrap();
        let losses: Vec<(usize, f64)> = losses.iter().map(|(step, loss)| (*step, loss.reconstruction)).collect();
        assert_eq!((name.as_str(), losses), ("layer1", vec![(3, 2.0), (6, 0.9)]));
    }
}
