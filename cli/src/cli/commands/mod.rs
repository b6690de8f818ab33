//! The commands. Every command returns the value that `--json` prints.

mod analyze;
mod bench;
mod compare;
mod describe;
mod devices;
mod evaluate;
mod export;
mod flatness;
mod list;
mod plan;
mod plugin;
mod quantize;
mod recipes;
mod report;

use super::arguments::{Arguments, Command, RecipeArguments};
use super::console::Console;
use super::manual;
use super::output::Output;
use crate::recipes::Loader;
use crate::{plugins, Run};
use anyhow::{bail, Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Runs a command.
pub fn run(arguments: Arguments) -> Result<Value> {
    if let Some(threads) = arguments.threads {
        crate::set_threads(threads).with_context(|| format!("--threads {threads}"))?;
    }
    let output = Output { json: arguments.json };
    let console = Console::new();
    for path in &arguments.plugin {
        plugins::load(path, &console)?;
    }
    plugins::load_from_environment(&console)?;
    match arguments.command {
        Command::Quantize(a) => quantize::quantize(&a, &console, output),
        Command::Resume { dir } => quantize::resume(&dir, &console, output),
        Command::Evaluate(a) => evaluate::evaluate(&a, &console, output),
        Command::Analyze(a) => analyze::analyze(&a, &console, output),
        Command::Report(a) => report::report(&a, &console, output),
        Command::Flatness(a) => flatness::flatness(&a, &console, output),
        Command::Compare(a) => compare::compare(&a, &console, output),
        Command::Export(a) => export::export(&a, &console, output),
        Command::List { kind } => list::list(kind, output),
        Command::Devices => devices::devices(output),
        Command::Recipes { action } => recipes::recipes(action, &console, output),
        Command::Check(a) => plan::check(&a, &console, output),
        Command::Plugin { action } => plugin::run(&action, output),
        Command::Describe(a) => describe::describe(&a, &console, output),
        Command::Completions { shell } => {
            let script = String::from_utf8(manual::completions(shell))?;
            output.print(&script)?;
            Ok(Value::from_iter([("shell", shell.to_string()), ("script", script)]))
        }
        Command::Man { dir } => {
            let pages = manual::pages(&dir)?;
            for page in &pages {
                output.print(&format!("{}\n", page.display()))?;
            }
            let pages: Vec<Value> = pages.iter().map(|page| path(page)).collect();
            Ok(Value::from_iter([("pages", pages)]))
        }
        Command::Bench(a) => bench::bench(&a, output),
    }
}

/// Checks that no folder is named twice.
fn check_distinct(dirs: &[PathBuf]) -> Result<()> {
    let real = |dir: &PathBuf| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
    let mut seen = BTreeSet::new();
    match dirs.iter().find(|dir| !seen.insert(real(dir))) {
        Some(dir) => bail!("{} is named twice; name each folder once", dir.display()),
        None => Ok(()),
    }
}

/// A path in JSON, which has only Unicode: what is not is replaced, as on a terminal.
fn path(path: &Path) -> Value {
    path.to_string_lossy().into()
}

/// Applies the changes of the command line.
fn with_changes<'a>(mut loader: Loader<'a>, arguments: &RecipeArguments) -> Loader<'a> {
    for change in &arguments.set {
        loader = loader.set(change);
    }
    if let Some(bits) = &arguments.bits {
        loader = loader.bits(bits);
    }
    if let Some(preset) = &arguments.preset {
        loader = loader.preset(preset);
    }
    if let Some(iters) = arguments.iters {
        loader = loader.iters(iters);
    }
    if let Some(engine) = arguments.engine {
        loader = loader.engine(engine.into());
    }
    if let Some(weights) = &arguments.weights {
        loader = loader.weights(weights);
    }
    if let Some(data) = &arguments.data {
        loader = loader.data(data);
    }
    loader
}

/// The run that the command line describes.
fn run_of<'a>(arguments: &RecipeArguments, console: &'a Console) -> Result<Run<'a>> {
    let recipe = with_changes(Loader::new(&arguments.recipe), arguments).progress(console).load()?;
    Ok(Run::new(recipe)?.device(&arguments.device)?.progress(console))
}
