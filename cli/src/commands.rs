//! What each command does. Every command returns the value that `--json` prints.

use crate::arguments::{
    Arguments, Command, EvaluateArguments, ListKind, QuantizeArguments, RecipeArguments, RecipesAction,
};
use crate::console::Console;
use crate::memory::peak_resident_bytes;
use crate::recipes;
use crate::report::{table, Row};
use anyhow::{bail, Context, Result};
use qdrop_core::candle_core::Tensor;
use qdrop_core::dataset::Split;
use qdrop_core::device;
use qdrop_core::graph::SiteKind;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::pipeline::{load_saved, save, Registries, RunResult, Session, Summary, SUMMARY_FILE};
use qdrop_core::recipe::Recipe;
use qdrop_core::registry::{Kind, Registry};
use serde_json::{json, Value};
use std::path::Path;

/// Runs a command.
pub fn run(arguments: Arguments) -> Result<Value> {
    if let Some(threads) = arguments.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().context("setting the number of threads")?;
    }
    let output = Output { json: arguments.json };
    match arguments.command {
        Command::Quantize(a) => quantize(&a, output),
        Command::Evaluate(a) => evaluate_command(&a, output),
        Command::List { kind } => list(kind, output),
        Command::Recipes { action } => show_recipes(action.unwrap_or(RecipesAction::List), output),
        Command::Check(a) => check(&a, output),
    }
}

/// Where results go: stdout, or stderr when stdout is for JSON.
#[derive(Clone, Copy)]
struct Output {
    json: bool,
}

impl Output {
    fn print(self, text: &str) {
        if self.json {
            eprint!("{text}");
        } else {
            print!("{text}");
        }
    }
}

/// The session of a recipe on the device of the command line.
fn session<'a>(arguments: &RecipeArguments, recipe: Recipe, registries: &'a Registries) -> Result<Session<'a>> {
    let device = device::open(&arguments.device)?;
    Session::new(recipe, registries, device).with_context(|| format!("recipe '{}'", arguments.recipe))
}

fn quantize(arguments: &QuantizeArguments, output: Output) -> Result<Value> {
    if let Some(out) = &arguments.out {
        Session::check_out(out)?;
    }
    let registries = Registries::collect()?;
    let console = Console::new();
    let recipe = recipes::load(&arguments.recipe)?;
    let main = session(&arguments.recipe, recipe, &registries)?;
    let recipe = main.recipe();
    let notice = main.notice();
    console.line(&format!(
        "{}: {}, setting {}, seed {}",
        recipe.name,
        recipe.bits(),
        recipe.quant.setting,
        recipe.seed
    ));
    if let Some(notice) = &notice {
        console.line(&format!("note: {notice}"));
    }
    let float_model = main.float_model().context("loading the float network")?;
    // The data is opened before anything long runs, so that its mistakes show at once.
    let images = main.calibration_images(&console).context("loading the calibration images")?;
    let float = main.evaluate(&float_model, Precision::Float, &console).context("evaluating the float network")?;
    let mut rows = vec![Row { name: "float".into(), bits: "w32a32".into(), accuracy: float, seconds: None }];
    for variant in &recipe.compare {
        console.line(&format!("{}:", variant.name));
        let stage = || format!("variant '{}'", variant.name);
        let session = session(&arguments.recipe, recipe.variant(variant)?, &registries).with_context(stage)?;
        let model = session.float_model().with_context(stage)?;
        rows.push(quantize_and_measure(&session, model, &images, &variant.name, &console).with_context(stage)?.1);
    }
    if !recipe.compare.is_empty() {
        console.line(&format!("{}:", recipe.reconstruction.name));
    }
    let (result, row) = quantize_and_measure(&main, float_model, &images, &recipe.reconstruction.name, &console)?;
    let quantized = row.accuracy;
    rows.push(row);
    let summary = Summary {
        recipe: recipe.name.clone(),
        setting: recipe.quant.setting.to_string(),
        bits: recipe.bits(),
        seed: recipe.seed,
        reconstruction: recipe.reconstruction.name.clone(),
        float,
        quantized,
        seconds: result.seconds,
        peak_rss_bytes: peak_resident_bytes(),
        notice,
    };
    output.print(&table(&rows, &summary));
    match &arguments.out {
        Some(out) => {
            save(out, recipe, &result.model, &summary).context("saving the result")?;
            console.line(&format!("saved in {}", out.display()));
        }
        None => console.line("not saved; give --out DIR to keep the quantized network"),
    }
    let mut value = serde_json::to_value(&summary)?;
    let others = rows
        .iter()
        .map(|r| json!({ "name": r.name, "bits": r.bits, "top1": r.accuracy.top1, "top5": r.accuracy.top5 }));
    value["rows"] = others.collect();
    value["units"] = result
        .units
        .iter()
        .map(|u| json!({ "name": u.name, "seconds": u.seconds, "loss": u.mean_losses(true) }))
        .collect();
    value["out"] = json!(arguments.out);
    Ok(value)
}

/// Quantizes the float network and measures the result; `name` is what the table calls it.
fn quantize_and_measure(
    session: &Session<'_>,
    float_model: QuantModel,
    images: &Tensor,
    name: &str,
    console: &Console,
) -> Result<(RunResult, Row)> {
    let result = session.quantize(float_model, images, console).context("quantizing")?;
    let accuracy =
        session.evaluate(&result.model, Precision::Quantized, console).context("evaluating the quantized network")?;
    let row = Row { name: name.into(), bits: session.recipe().bits(), accuracy, seconds: Some(result.seconds) };
    Ok((result, row))
}

fn evaluate_command(arguments: &EvaluateArguments, output: Output) -> Result<Value> {
    let registries = Registries::collect()?;
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
        data: None,
        weights: None,
        device: "cpu".into(),
    };
    match action {
        RecipesAction::List => {
            let mut list = Vec::new();
            for name in recipes::names() {
                let recipe = recipes::load(&plain(name.into()))?;
                let description = recipe.description.unwrap_or_default();
                output.print(&format!("{name:32} {description}\n"));
                list.push(json!({ "name": name, "description": description }));
            }
            Ok(json!({ "recipes": list }))
        }
        RecipesAction::Show { name } => {
            let mut recipe = recipes::load(&plain(name))?;
            // A copy of the text belongs to the folder it is put in.
            recipe.base_dir.clear();
            output.print(&recipe.to_yaml()?);
            Ok(serde_json::to_value(&recipe)?)
        }
    }
}

fn check(arguments: &RecipeArguments, output: Output) -> Result<Value> {
    let registries = Registries::collect()?;
    let session = session(arguments, recipes::load(arguments)?, &registries)?;
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
        Err(_) => unchecked.push("weights"),
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
        Err(qdrop_core::Error::Setting { path, .. }) if path == "data.params.root" => unchecked.push("data"),
        Err(e) => return Err(e).context("checking the data"),
    }
    for what in &unchecked {
        output.print(&format!("{what}: not given, not checked\n"));
    }
    output.print("the recipe is valid\n");
    Ok(json!({ "valid": true, "units": units, "weights": weights, "activations": activations, "unchecked": unchecked }))
}
