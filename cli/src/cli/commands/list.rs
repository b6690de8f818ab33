//! `list`: shows the registered strategies.

use super::Output;
use crate::cli::arguments::ListKind;
use anyhow::Result;
use qdrop_core::pipeline::Registries;
use qdrop_core::registry::{Kind, Registry};
use serde_json::{json, Value};

/// Prints names, aliases, summaries and origins.
pub fn list(kind: Option<ListKind>, output: Output) -> Result<Value> {
    let registries = Registries::collect()?;
    let mut value = json!({});
    let mut section = |this: ListKind, name: &str, entries: Vec<[String; 4]>| {
        if kind.is_some_and(|k| k != this) {
            return;
        }
        output.print(&format!("{name}\n"));
        let width = entries.iter().map(|e| e[0].len()).max().unwrap_or(0);
        for [name, aliases, summary, origin] in &entries {
            let aliases = if aliases.is_empty() { String::new() } else { format!(" (also {aliases})") };
            output.print(&format!("  {name:width$}  {summary}{aliases} [{origin}]\n"));
        }
        let rows = entries.iter().map(|[name, aliases, summary, origin]| {
            json!({ "name": name, "aliases": aliases, "summary": summary, "origin": origin })
        });
        value[name] = rows.collect();
    };
    section(ListKind::Architectures, "architectures", entries(&registries.architectures));
    section(ListKind::Observers, "observers", entries(&registries.observers));
    section(ListKind::Quantizers, "quantizers", entries(&registries.quantizers));
    section(ListKind::Reconstructors, "reconstructors", entries(&registries.reconstructors));
    section(ListKind::Datasets, "datasets", entries(&registries.datasets));
    section(ListKind::Tasks, "tasks", entries(&registries.tasks));
    Ok(value)
}

fn entries<F: Kind>(registry: &Registry<F>) -> Vec<[String; 4]> {
    registry.iter().map(|e| [e.name.into(), e.aliases.join(", "), e.summary.into(), e.defined_in.into()]).collect()
}
