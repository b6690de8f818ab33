//! `quantize` and `resume`: a run from the float network to the report.

use super::plan::{check_float, choose_bits, dry_run, header, preprocessing, text};
use super::{path, run_of, Output};
use crate::cli::arguments::QuantizeArguments;
use crate::cli::console::Console;
use crate::cli::interrupt;
use crate::error::At;
use crate::kept::measured_files;
use crate::{summary, Evaluation, Outcome, Run, Stage};
use anyhow::{Error, Result};
use qdrop_core::recipe::Recipe;
use qdrop_core::run_directory::{read_json, RunDirectory, SUMMARY_FILE};
use qdrop_core::Error as Core;
use serde_json::Value;
use std::path::Path;

/// Runs a recipe.
pub fn quantize(arguments: &QuantizeArguments, console: &Console, output: Output) -> Result<Value> {
    let mut run = run_of(&arguments.recipe, console)?;
    // Reports mistakes in the recipe before the folder is created.
    run.session()?;
    if arguments.dry_run {
        if let Some(out) = &arguments.out {
            RunDirectory::check_usable(out).at(Stage::RunDirectory)?;
        }
        return dry_run(run, console, output);
    }
    if let Some(out) = &arguments.out {
        run = run.out(out)?;
        interrupt::keep_state_in(out);
    }
    header(&run, console)?;
    preprocessing(&run.check()?, console);
    check_float(&mut run, console)?;
    choose_bits(&mut run, console)?;
    console.line(text(&run.plan()?).trim_end());
    let outcome = run.quantize().map_err(hint)?;
    report(&outcome, console, output)
}

/// Resumes an interrupted run.
pub fn resume(dir: &Path, console: &Console, output: Output) -> Result<Value> {
    if dir.join(SUMMARY_FILE).exists() {
        // What was lost or damaged since the run was finished comes from its checkpoints once more.
        let whole = || check_kept(dir, &Evaluation::new(dir).open()?.0);
        match whole().and_then(|()| summary(dir)) {
            Ok(summary) => {
                output.print(&format!("{} is finished; `qdrop evaluate` measures it\n", dir.display()))?;
                return Ok(serde_json::to_value(&summary)?);
            }
            Err(e) => {
                console.line(&format!("warning: {:#}; the result is saved again from the checkpoints", Error::new(e)))
            }
        }
    }
    interrupt::keep_state_in(dir);
    let run = Run::resume(dir, console)?;
    header(&run, console)?;
    let outcome = run.quantize().map_err(hint)?;
    report(&outcome, console, output)
}

/// Checks that the folder of a finished run still has all measurements of the recipe.
fn check_kept(dir: &Path, recipe: &Recipe) -> crate::Result<()> {
    for file in measured_files(recipe).map(|name| dir.join(name)) {
        let content = read_json::<serde_json::Value>(&file).at(Stage::SavedResult)?;
        content.ok_or_else(|| Core::data(&file, "is missing")).at(Stage::SavedResult)?;
    }
    Ok(())
}

/// After a stop on request, adds how to resume the run.
fn hint(error: crate::Error) -> Error {
    match interrupt::hint().filter(|_| interrupt::requested()) {
        Some(hint) => Error::new(error).context(hint),
        None => error.into(),
    }
}

/// Prints the result of a run.
fn report(outcome: &Outcome, console: &Console, output: Output) -> Result<Value> {
    // Before the table: if it cannot be printed, the user knows where the result is.
    match &outcome.out {
        Some(out) => console.line(&format!("saved in {}", out.display())),
        None => console.line("not saved; give --out DIR to keep the quantized network"),
    }
    output.print(&outcome.table)?;
    let mut value = serde_json::to_value(&outcome.summary)?;
    let rows = outcome.rows.iter().map(|row| {
        let mut value = Value::from_iter([("name", row.name.as_str()), ("bits", &row.bits)]);
        for (key, measured) in &row.measured.values {
            value[key] = (*measured).into();
        }
        value
    });
    value["rows"] = rows.collect();
    let units = outcome.units.iter().map(|u| {
        let loss = serde_json::to_value(u.mean_losses(true))?;
        let name = Value::from(u.name.as_str());
        Ok(Value::from_iter([
            ("name", name),
            ("seconds", u.seconds.into()),
            ("loss", loss),
            ("hard_loss", u.hard.last().map(|hard| hard.loss).into()),
            ("memory_bytes", u.memory_bytes.into()),
        ]))
    });
    value["units"] = units.collect::<Result<_>>()?;
    value["out"] = outcome.out.as_deref().map_or(Value::Null, path);
    Ok(value)
}
