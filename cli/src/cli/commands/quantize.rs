//! `quantize` and `resume`: a run from the float network to the report.

use super::plan::{check_float, dry_run, header, text};
use super::{run_of, Output};
use crate::cli::arguments::QuantizeArguments;
use crate::cli::console::Console;
use crate::{summary, Outcome, Run};
use anyhow::{Error, Result};
use qdrop_core::progress::Progress;
use serde_json::{json, Value};
use std::path::Path;

/// Runs a recipe.
pub fn quantize(arguments: &QuantizeArguments, console: &Console, output: Output) -> Result<Value> {
    let mut run = run_of(&arguments.recipe, console)?;
    // Reports mistakes in the recipe before the folder is created.
    run.session()?;
    if arguments.dry_run {
        return dry_run(run, console, output);
    }
    if let Some(out) = &arguments.out {
        run = run.out(out)?;
    }
    header(&run, console)?;
    check_float(&mut run, console)?;
    console.line(text(&run.plan()?).trim_end());
    let outcome = run.quantize().map_err(|error| hint(error, arguments.out.as_deref(), console))?;
    report(&outcome, console, output)
}

/// Resumes an interrupted run.
pub fn resume(path: &Path, console: &Console, output: Output) -> Result<Value> {
    if let Some(summary) = summary(path)? {
        output.print(&format!("{} is finished; `qdrop evaluate` measures it\n", path.display()));
        return Ok(serde_json::to_value(&summary)?);
    }
    let run = Run::resume(path, console)?;
    header(&run, console)?;
    let outcome = run.quantize().map_err(|error| hint(error, Some(path), console))?;
    report(&outcome, console, output)
}

/// After a stop on request, adds how to resume the run.
fn hint(error: crate::Error, out: Option<&Path>, console: &Console) -> Error {
    match out.filter(|_| console.cancelled()) {
        Some(out) => Error::new(error).context(format!("continue with `qdrop resume {}`", out.display())),
        None => error.into(),
    }
}

/// Prints the result of a run.
fn report(outcome: &Outcome, console: &Console, output: Output) -> Result<Value> {
    output.print(&outcome.table);
    match &outcome.out {
        Some(out) => console.line(&format!("saved in {}", out.display())),
        None => console.line("not saved; give --out DIR to keep the quantized network"),
    }
    let mut value = serde_json::to_value(&outcome.summary)?;
    let rows = outcome.rows.iter().map(|row| {
        let mut value = json!({ "name": row.name, "bits": row.bits });
        for metric in &outcome.metrics {
            value[&metric.key] = json!(row.measured.value(metric)?);
        }
        Ok(value)
    });
    value["rows"] = rows.collect::<Result<_>>()?;
    let units = outcome.units.iter();
    let units = units.map(|u| json!({ "name": u.name, "seconds": u.seconds, "loss": u.mean_losses(true) }));
    value["units"] = units.collect();
    value["out"] = json!(outcome.out);
    Ok(value)
}
