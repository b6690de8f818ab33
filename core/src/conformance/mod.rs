//! The conformance suite: checks that every strategy must pass, whoever wrote it.
//!
//! This repository's tests run it on the built-in strategies, the tests of a plugin crate call
//! [`conforms`], and `qdrop plugin test` runs it on a built plugin. It can only check a strategy that can be
//! built without parameters.

mod architecture;
mod exporter;
mod kernel;
mod observer;
mod preparation;
mod quantizer;
mod reconstructor;
mod task;
mod toy;

use crate::error::{Error, Result};
use crate::pipeline::Registries;
use qdrop_kernels::testing::normal;

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The strategy passes.
    Passed,
    /// The check does not apply, for this reason.
    Skipped(String),
    /// The strategy fails, for this reason.
    Failed(String),
}

/// One check of a strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What the check requires.
    pub name: &'static str,
    /// The result.
    pub outcome: Outcome,
}

/// Checks one strategy. Kinds without checks (datasets, which need data, and recipes) are skipped.
///
/// # Errors
/// The name is unknown.
pub fn check(registries: &Registries, kind: &str, name: &str) -> Result<Vec<Check>> {
    let mut report = Report::default();
    match kind {
        "observer" => observer::check(registries.observers.get(name, kind)?, &mut report),
        "quantizer" => {
            let entry = registries.quantizers.get(name, kind)?;
            quantizer::check(entry, &mut report);
            kernel::check(entry, &mut report);
        }
        "preparation" => preparation::check(registries.preparations.get(name, kind)?, &mut report),
        "architecture" => architecture::check(registries.architectures.get(name, kind)?, &mut report),
        "reconstructor" => reconstructor::check(registries.reconstructors.get(name, kind)?, &mut report),
        "exporter" => exporter::check(registries.exporters.get(name, kind)?, &mut report),
        "task" => task::check(registries.tasks.get(name, kind)?, &mut report),
        _ => report.skip("has a suite", format!("there are no checks for a {kind} without its data")),
    }
    Ok(report.checks)
}

/// Checks a strategy that is linked into this program. The tests of a plugin crate call it.
///
/// # Errors
/// The name is unknown or a check fails; the message lists all failures.
pub fn conforms(kind: &str, name: &str) -> Result<()> {
    let checks = check(&Registries::collect()?, kind, name)?;
    let failures = checks.iter().filter_map(|check| match &check.outcome {
        Outcome::Failed(why) => Some(format!("{}: {why}", check.name)),
        _ => None,
    });
    match failures.collect::<Vec<_>>() {
        none if none.is_empty() => Ok(()),
        failures => Err(Error::message(format!("{kind} '{name}' does not conform: {}", failures.join("; ")))),
    }
}

/// The checks so far.
#[derive(Default)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// Runs a check. An error makes it fail.
    fn run(&mut self, name: &'static str, body: impl FnOnce() -> Result<()>) {
        let outcome = match body() {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.checks.push(Check { name, outcome });
    }

    fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::Skipped(why.into()) });
    }
}

/// Returns an error unless `condition` holds.
fn require(condition: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(Error::message(otherwise()))
    }
}

/// The cosine of the angle between two vectors; 1 if both are zero.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (aa, bb) = (dot(a, a), dot(b, b));
    if aa == 0.0 && bb == 0.0 {
        return 1.0;
    }
    let size = (aa * bb).sqrt();
    if size == 0.0 {
        0.0
    } else {
        dot(a, b) / size
    }
}

#[cfg(test)]
mod tests;
