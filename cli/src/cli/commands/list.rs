//! `list`: shows the registered strategies.

use super::Output;
use crate::cli::arguments::ListKind;
use anyhow::Result;
use qdrop_core::pipeline::Registries;
use qdrop_core::registry::{Kind, Registry};
use serde_json::Value;

/// Prints names, aliases, summaries and origins.
pub fn list(kind: Option<ListKind>, output: Output) -> Result<Value> {
    let registries = Registries::collect()?;
    let mut value = serde_json::Map::new();
    let mut section = |this: ListKind, name: &str, entries: Vec<[String; 4]>| -> Result<()> {
        if kind.is_some_and(|k| k != this) {
            return Ok(());
        }
        output.print(&format!("{name}\n"))?;
        let width = entries.iter().map(|e| e[0].len()).max().unwrap_or(0);
        for [name, aliases, summary, origin] in &entries {
            let aliases = if aliases.is_empty() { String::new() } else { format!(" (also {aliases})") };
            output.print(&format!("  {name:width$}  {summary}{aliases} [{origin}]\n"))?;
        }
        let rows = entries.into_iter().map(|[name, aliases, summary, origin]| {
            Value::from_iter([("name", name), ("aliases", aliases), ("summary", summary), ("origin", origin)])
        });
        value.insert(name.into(), rows.collect());
        Ok(())
    };
    section(ListKind::Architectures, "architectures", entries(&registries.architectures))?;
    section(ListKind::Preparations, "preparations", entries(&registries.preparations))?;
    section(ListKind::Observers, "observers", entries(&registries.observers))?;
    section(ListKind::Quantizers, "quantizers", entries(&registries.quantizers))?;
    section(ListKind::Reconstructors, "reconstructors", entries(&registries.reconstructors))?;
    section(ListKind::Datasets, "datasets", entries(&registries.datasets))?;
    section(ListKind::Tasks, "tasks", entries(&registries.tasks))?;
    section(ListKind::Exporters, "exporters", entries(&registries.exporters))?;
    Ok(value.into())
}

fn entries<F: Kind>(registry: &Registry<F>) -> Vec<[String; 4]> {
    registry.iter().map(|e| [e.name.into(), e.aliases.join(", "), e.summary.into(), e.defined_in.into()]).collect()
}
