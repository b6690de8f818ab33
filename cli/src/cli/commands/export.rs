//! `export`: writes a saved result in a format of another program.

use super::{path, Output};
use crate::cli::arguments::ExportArguments;
use crate::cli::console::Console;
use crate::Export;
use anyhow::{Context, Result};
use serde_json::Value;

/// Prints the files and what is to know about them.
pub fn export(arguments: &ExportArguments, console: &Console, output: Output) -> Result<Value> {
    let mut export = Export::new(&arguments.dir, &arguments.format).progress(console);
    for change in &arguments.set {
        export = export.set(change);
    }
    if arguments.exact {
        export = export.set("exact=true");
    }
    if let Some(out) = &arguments.out {
        export = export.out(out);
    }
    let exported = export.run()?;
    let mut files = Vec::new();
    for file in &exported.files {
        let bytes = std::fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
        output.print(&format!("{} ({:.2} MB)\n", file.display(), bytes as f64 / 1e6))?;
        files.push(Value::from_iter([("path", path(file)), ("bytes", bytes.into())]));
    }
    for note in &exported.notes {
        output.print(&format!("note: {note}\n"))?;
    }
    let notes: Vec<Value> = exported.notes.into_iter().map(Value::from).collect();
    Ok(Value::from_iter([
        ("format", arguments.format.as_str().into()),
        ("files", Value::from(files)),
        ("notes", notes.into()),
    ]))
}
