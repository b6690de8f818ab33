//! The commands. Every command returns the value that `--json` prints.

mod bench;
mod describe;
mod evaluate;
mod list;
mod plan;
mod plugin;
mod quantize;
mod recipes;

use super::arguments::{Arguments, Command, RecipeArguments};
use super::console::Console;
use super::manual;
use crate::recipes::Loader;
use crate::{plugins, Run};
use anyhow::Result;
use serde_json::{json, Value};
use std::io::{ErrorKind, Write};

/// Runs a command.
pub fn run(arguments: Arguments) -> Result<Value> {
    if let Some(threads) = arguments.threads {
        crate::set_threads(threads)?;
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
        Command::List { kind } => list::list(kind, output),
        Command::Recipes { action } => recipes::recipes(action, &console, output),
        Command::Check(a) => plan::check(&a, &console, output),
        Command::Plugin { action } => plugin::run(&action, output),
        Command::Describe(a) => describe::describe(&a, &console, output),
        Command::Completions { shell } => {
            let script = String::from_utf8(manual::completions(shell))?;
            output.print(&script);
            Ok(json!({ "shell": shell.to_string(), "script": script }))
        }
        Command::Man { dir } => {
            let pages = manual::pages(&dir)?;
            pages.iter().for_each(|page| output.print(&format!("{}\n", page.display())));
            Ok(json!({ "pages": pages }))
        }
        Command::Bench(a) => bench::bench(&a, output),
    }
}

/// Where results are printed: stdout, or stderr when stdout is for JSON.
#[derive(Clone, Copy)]
struct Output {
    json: bool,
}

impl Output {
    fn print(self, text: &str) {
        let written = match self.json {
            true => std::io::stderr().write_all(text.as_bytes()),
            false => std::io::stdout().write_all(text.as_bytes()),
        };
        // A reader that closes the pipe early, such as `head`, is not an error.
        if let Some(e) = written.err().filter(|e| e.kind() != ErrorKind::BrokenPipe) {
            eprintln!("warning: cannot write to the output: {e}");
        }
    }
}

/// Applies the changes of the command line.
fn with_changes<'a>(mut loader: Loader<'a>, arguments: &RecipeArguments) -> Loader<'a> {
    for change in &arguments.set {
        loader = loader.set(change);
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
