//! What each command does. Every command returns the value that `--json` prints.

mod bench;
mod describe;
mod plan;
mod plugin;
mod quantize;

use crate::arguments::{Arguments, Command, EvaluateArguments, ListKind, RecipeArguments, RecipesAction};
use crate::console::Console;
use crate::{plugins, recipes};
use anyhow::{bail, Context, Result};
use qdrop_core::dataset::Split;
use qdrop_core::device;
use qdrop_core::graph::SiteKind;
use qdrop_core::model::Precision;
use qdrop_core::pipeline::{load_saved, Registries, Session};
use qdrop_core::recipe::Recipe;
use qdrop_core::registry::{Kind, Registry};
use qdrop_core::run_directory::SUMMARY_FILE;
use serde_json::{json, Value};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Runs a command.
pub fn run(arguments: Arguments) -> Result<Value> {
    if let Some(threads) = arguments.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().context("setting the number of threads")?;
    }
    let output = Output { json: arguments.json };
    plugins::load_all(&arguments.plugin)?;
    match arguments.command {
        Command::Quantize(a) => quantize::quantize(&a, output),
        Command::Resume { dir } => quantize::resume(&dir, output),
        Command::Evaluate(a) => evaluate_command(&a, output),
        Command::List { kind } => list(kind, output),
        Command::Recipes { action } => show_recipes(action.unwrap_or(RecipesAction::List), output),
        Command::Check(a) => check(&a, output),
        Command::Plugin { action } => plugin::run(&action, output),
        Command::Describe(a) => describe::describe(&a, output),
        Command::Bench(a) => bench::bench(&a, output),
    }
}

/// Where results go: stdout, or stderr when stdout is for JSON.
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
        // A reader that has seen enough, such as `head`, is no error.
        if let Some(e) = written.err().filter(|e| e.kind() != ErrorKind::BrokenPipe) {
            eprintln!("warning: cannot write to the output: {e}");
        }
    }
}

/// The session of a recipe on the device of the command line.
fn session<'a>(arguments: &RecipeArguments, recipe: Recipe, registries: &'a Registries) -> Result<Session<'a>> {
    let device = device::open(&arguments.device)?;
    Session::new(recipe, registries, device).with_context(|| format!("recipe '{}'", arguments.recipe))
}

fn evaluate_command(arguments: &EvaluateArguments, output: Output) -> Result<Value> {
    let console = Console::new();
    let target = &arguments.target;
    let dir = Path::new(&target.recipe);
    let saved = dir.join(SUMMARY_FILE).is_file();
    if dir.is_dir() && !saved && !recipes::is_built_in(&target.recipe) {
        bail!("{} holds no saved result: {SUMMARY_FILE} is missing", dir.display());
    }
    if !saved && !arguments.float {
        bail!("'{}' is a recipe, nothing is quantized yet; add --float to measure its float network, or give a folder written by `quantize --out`", target.recipe);
    }
    if saved && (target.iters.is_some() || target.weights.is_some() || !target.set.is_empty()) {
        bail!("a saved result cannot be changed: --set, --iters and --weights belong to recipes");
    }
    let recipe = recipes::load(target)?;
    let registries = Registries::collect()?;
    let accuracy = if arguments.float {
        let session = session(target, recipe, &registries)?;
        let model = session.float_model().context("loading the float network")?;
        session.evaluate(&model, Precision::Float, &console).context("evaluating the float network")?
    } else {
        let device = device::open(&target.device)?;
        let model = load_saved(dir, &registries, &device).context("loading the saved result")?.model;
        let session = session(target, recipe, &registries)?;
        session.evaluate(&model, Precision::Quantized, &console).context("evaluating the quantized network")?
    };
    output
        .print(&format!("top-1 {:.2} %, top-5 {:.2} % of {} images\n", accuracy.top1, accuracy.top5, accuracy.images));
    Ok(serde_json::to_value(accuracy)?)
}

fn list(kind: Option<ListKind>, output: Output) -> Result<Value> {
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
    Ok(value)
}

fn entries<F: Kind>(registry: &Registry<F>) -> Vec<[String; 4]> {
    registry.iter().map(|e| [e.name.into(), e.aliases.join(", "), e.summary.into(), e.defined_in.into()]).collect()
}

fn show_recipes(action: RecipesAction, output: Output) -> Result<Value> {
    let plain = |recipe: String| RecipeArguments {
        recipe,
        set: Vec::new(),
        iters: None,
        engine: None,
        data: None,
        weights: None,
        device: "cpu".into(),
    };
    match action {
        RecipesAction::List => {
            let mut list = Vec::new();
            for name in recipes::names() {
                let recipe = recipes::load(&plain(name.clone()))?;
                let description = recipe.description.unwrap_or_default();
                output.print(&format!("{name:32} {description}\n"));
                list.push(json!({ "name": name, "description": description }));
            }
            Ok(json!({ "recipes": list }))
        }
        RecipesAction::Show { name } | RecipesAction::Convert { file: name } => {
            let mut recipe = recipes::load(&plain(name))?;
            // A copy of the text belongs to the folder it is put in.
            recipe.base_dir.clear();
            output.print(&recipe.to_yaml()?);
            Ok(serde_json::to_value(&recipe)?)
        }
    }
}

fn check(arguments: &RecipeArguments, output: Output) -> Result<Value> {
    let recipe = recipes::load(arguments)?;
    let registries = Registries::collect()?;
    let session = session(arguments, recipe, &registries)?;
    let plans = session.plans()?;
    let count = |kind| plans.iter().filter(|p| p.site.kind == kind).count();
    let (weights, activations) = (count(SiteKind::Weight), count(SiteKind::Activation));
    let units = session.graph().units().len();
    output
        .print(&format!("network: {units} units, {weights} quantized weights, {activations} quantized activations\n"));
    let mut unchecked = Vec::new();
    match session.weights_file() {
        Ok(_) => {
            session.float_model().context("checking the weights")?;
            output.print("weights: every tensor is there\n");
        }
        Err(qdrop_core::Error::NotGiven { .. }) => unchecked.push("weights"),
        Err(e) => return Err(e).context("checking the weights"),
    }
    match session.dataset(Split::Evaluation) {
        Ok(evaluation) => {
            let calibration = session.dataset(Split::Calibration).context("checking the calibration images")?;
            output.print(&format!(
                "data: {} calibration and {} evaluation images\n",
                calibration.len(),
                evaluation.len()
            ));
        }
        Err(qdrop_core::Error::NotGiven { .. }) => unchecked.push("data"),
        Err(e) => return Err(e).context("checking the data"),
    }
    for what in &unchecked {
        output.print(&format!("{what}: not given, not checked\n"));
    }
    output.print("the recipe is valid\n");
    Ok(json!({ "valid": true, "units": units, "weights": weights, "activations": activations, "unchecked": unchecked }))
}
