//! `plugin`: creates, builds, inspects and tests plugins.

use super::{path, Output};
use crate::cli::arguments::{PluginAction, PluginKind};
use crate::cli::sdk::Sdk;
use anyhow::{bail, Context, Result};
use qdrop_core::conformance::{self, Outcome};
use qdrop_core::pipeline::Registries;
use qdrop_core::plugin::{self, PluginFile, Verdict};
use serde_json::Value;
use std::path::Path;

/// The template of a new plugin.
struct Template {
    source: &'static str,
    more: &'static [(&'static str, &'static str)],
    next: &'static str,
}

fn template(kind: PluginKind) -> Template {
    match kind {
        PluginKind::Architecture => Template {
            source: include_str!("../../../templates/architecture.rs.txt"),
            more: &[("recipe.yaml", include_str!("../../../templates/architecture.yaml.txt"))],
            next: "quantize NAME/w4a4 --weights FILE",
        },
        PluginKind::Preparation => Template {
            source: include_str!("../../../templates/preparation.rs.txt"),
            more: &[],
            next: "quantize demo --set prepare=[NAME]",
        },
        PluginKind::Observer => Template {
            source: include_str!("../../../templates/observer.rs.txt"),
            more: &[],
            next: "quantize demo --set quant.activation.observer=NAME",
        },
        PluginKind::Quantizer => Template {
            source: include_str!("../../../templates/quantizer.rs.txt"),
            more: &[],
            next: "quantize demo --set quant.weight.quantizer=NAME",
        },
        PluginKind::Reconstructor => Template {
            source: include_str!("../../../templates/reconstructor.rs.txt"),
            more: &[],
            next: "quantize demo --set reconstruction=NAME",
        },
        PluginKind::Exporter => Template {
            source: include_str!("../../../templates/exporter.rs.txt"),
            more: &[],
            next: "export RESULT --format NAME",
        },
    }
}

/// Runs one of the commands.
pub fn run(action: &PluginAction, output: Output) -> Result<Value> {
    match action {
        PluginAction::New { name, kind } => new(name, *kind, output),
        PluginAction::Build { dir } => {
            let file = Sdk::find()?.build(dir)?;
            output.print(&format!("{}\n", file.display()))?;
            Ok(Value::from_iter([("path", path(&file))]))
        }
        PluginAction::Inspect { file } => inspect(file, output),
        PluginAction::Test { file } => test(file, output),
    }
}

fn new(dir: &Path, kind: PluginKind, output: Output) -> Result<Value> {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(letters) {
        bail!("'{name}' cannot be the name of a plugin; use lower-case letters, digits and underscores");
    }
    if dir.exists() {
        bail!("{} exists already; choose another name or folder", dir.display());
    }
    let sdk = Sdk::find()?;
    let template = template(kind);
    let flags: Vec<String> = sdk.flags().iter().map(|f| format!("    {f:?},\n")).collect();
    let config = include_str!("../../../templates/config.toml.txt")
        .replace("TARGET", sdk.target())
        .replace("FLAGS", &flags.concat());
    let mut files = vec![
        ("Cargo.toml", include_str!("../../../templates/Cargo.toml.txt").to_string()),
        (".gitignore", "/target\n/.cargo\n".to_string()),
        (".cargo/config.toml", config),
        ("src/lib.rs", template.source.to_string()),
    ];
    files.extend(template.more.iter().map(|(file, text)| (*file, (*text).to_string())));
    for (file, text) in files {
        let file = dir.join(file);
        let folder = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        std::fs::write(&file, text.replace("PLUGIN_NAME", name))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let (next, shown) = (template.next.replace("NAME", name), dir.display());
    output.print(&format!(
        "{shown}: a new plugin\n  qdrop plugin build {shown}         # prints the built file\n  qdrop plugin test FILE\n  \
         qdrop --plugin FILE {next}\n"
    ))?;
    Ok(Value::from_iter([("path", path(dir))]))
}

fn inspect(file: &Path, output: Output) -> Result<Value> {
    let plugin = PluginFile::inspect(file)?;
    for (row, value) in plugin.stamp.rows() {
        output.print(&format!("{row:12} {value}\n"))?;
    }
    for d in &plugin.declarations {
        output.print(&format!("registers    {} '{}' ({})\n", d.kind, d.name, d.defined_in))?;
    }
    let (fits, text) = match plugin.verdict() {
        Verdict::Fits => (true, "can be loaded here".to_string()),
        Verdict::Refused(reason) => (false, reason),
    };
    output.print(&format!("verdict      {text}\n"))?;
    let entries = plugin.declarations.iter().map(|d| {
        Value::from_iter([("kind", &d.kind), ("name", &d.name), ("crate", &d.defined_in)].map(|(k, v)| (k, v.as_str())))
    });
    let stamp: serde_json::Map<String, Value> =
        plugin.stamp.rows().map(|(row, value)| (row.into(), value.into())).collect();
    Ok(Value::from_iter([
        ("stamp", Value::from(stamp)),
        ("entries", entries.collect()),
        ("fits", fits.into()),
        ("verdict", text.into()),
    ]))
}

fn test(file: &Path, output: Output) -> Result<Value> {
    if file.is_dir() {
        bail!("{} is a folder; `plugin test` takes the file that `plugin build` printed", file.display());
    }
    let loaded = plugin::load(file, &mut |_| {})?;
    let registries = Registries::collect()?;
    let mut results = Vec::new();
    let mut failed = 0;
    for declaration in loaded.iter().flat_map(|p| &p.declarations) {
        output.print(&format!("{} '{}'\n", declaration.kind, declaration.name))?;
        for check in conformance::check(&registries, &declaration.kind, &declaration.name)? {
            let (mark, text) = match &check.outcome {
                Outcome::Passed => ("ok", String::new()),
                Outcome::Skipped(why) => ("skipped", format!(": {why}")),
                Outcome::Failed(why) => ("FAILED", format!(": {why}")),
            };
            failed += usize::from(matches!(check.outcome, Outcome::Failed(_)));
            output.print(&format!("  {mark:8} {}{text}\n", check.name))?;
            results.push(Value::from_iter([
                ("kind", declaration.kind.as_str()),
                ("name", &declaration.name),
                ("check", check.name),
                ("outcome", mark),
                ("message", text.trim_start_matches(": ")),
            ]));
        }
    }
    if failed > 0 {
        bail!("{}: {failed} of {} checks failed", file.display(), results.len());
    }
    Ok(Value::from_iter([("checks", results)]))
}
