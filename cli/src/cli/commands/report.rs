//! `report`: the report of a run, or of several side by side, as one HTML file.

use super::{check_distinct, path, Output};
use crate::cli::arguments::ReportArguments;
use crate::cli::console::Console;
use crate::error::At;
use crate::kept::check_output;
use crate::{html_comparison, html_report, Stage, REPORT_FILE};
use anyhow::Result;
use qdrop_core::run_directory::{check_writable, write_file};
use serde_json::Value;
use std::path::Path;

/// Writes the report.
pub fn report(arguments: &ReportArguments, console: &Console, output: Output) -> Result<Value> {
    check_distinct(&arguments.dirs)?;
    let usual = match &arguments.dirs[..] {
        [dir] => dir.join(REPORT_FILE),
        _ => REPORT_FILE.into(),
    };
    let (file, is_usual) = match &arguments.out {
        Some(out) => (out.clone(), *out == usual),
        None => (usual, true),
    };
    // A folder that is no run is said first.
    let text = match &arguments.dirs[..] {
        [dir] => html_report(dir, console)?,
        dirs => html_comparison(dirs, console)?,
    };
    match is_usual {
        true => check_writable(&file),
        false => check_output(&file, &["html", "htm"]),
    }
    .at(Stage::Report)?;
    write_file(&file, text.as_bytes()).at(Stage::Report)?;
    output.print(&format!("{}\n", file.display()))?;
    Ok(Value::from_iter([("report", path(&file))]))
}

/// Writes the report of a run again, after something new was measured of it.
pub fn renew(dir: &Path, console: &Console) -> Result<()> {
    let file = dir.join(REPORT_FILE);
    write_file(&file, html_report(dir, console)?.as_bytes()).at(Stage::Report)?;
    console.line(&format!("shown in {}", file.display()));
    Ok(())
}
