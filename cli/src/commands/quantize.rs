//! `quantize` and `resume`: a recipe's run from the float network to the report.

use super::plan::{check_float, dry_run, header, plan};
use super::{session, Output};
use crate::arguments::QuantizeArguments;
use crate::console::Console;
use crate::memory::peak_resident_bytes;
use crate::report::{table, Row};
use crate::{plugins, recipes};
use anyhow::{Context, Result};
use qdrop_core::cache::CacheBudget;
use qdrop_core::dataset::Split;
use qdrop_core::device;
use qdrop_core::model::Precision;
use qdrop_core::pipeline::{save, CalibrationSet, Registries, Resources, RunResult, Session, Summary};
use qdrop_core::progress::Progress;
use qdrop_core::recipe::{parse_yaml, Recipe};
use qdrop_core::run_directory::{EventLog, Manifest, RunDirectory, RECIPE_FILE, SUMMARY_FILE};
use serde_json::{json, Value};
use std::path::Path;
use std::sync::Arc;

/// Result of evaluating the float network.
const FLOAT_FILE: &str = "float.json";

/// Runs a recipe.
pub fn quantize(arguments: &QuantizeArguments, output: Output) -> Result<Value> {
    let recipe = recipes::load(&arguments.recipe)?;
    let registries = Registries::collect()?;
    let session = session(&arguments.recipe, recipe, &registries)?;
    if arguments.dry_run {
        return dry_run(&session, output);
    }
    if let Some(out) = &arguments.out {
        RunDirectory::check_free(out)?;
    }
    // Mistakes show before anything long runs, and before anything is written.
    let console = Console::new();
    header(&session, &console);
    let float_model = session.float_model().context("loading the float network")?;
    session.dataset(Split::Calibration).context("opening the calibration images")?;
    check_float(&session, &float_model, &console)?;
    console.line(plan(&session, &console)?.text.trim_end());
    let kept = match &arguments.out {
        None => None,
        Some(out) => {
            let yaml = session.recipe().to_yaml()?;
            let manifest = Manifest::new(yaml, &session.weights_file()?, &arguments.recipe.device)?;
            let directory = RunDirectory::create(out, &manifest).context("preparing the run directory")?;
            Some((directory, manifest))
        }
    };
    run(&session, &registries, kept, &console, output)
}

/// Goes on with a run that was stopped.
pub fn resume(path: &Path, output: Output) -> Result<Value> {
    let (directory, manifest) = RunDirectory::open(path)?;
    if let Some(summary) = directory.load::<Summary>(SUMMARY_FILE)? {
        output.print(&format!("{} is finished; `qdrop evaluate` measures it\n", path.display()));
        return Ok(serde_json::to_value(&summary)?);
    }
    // The recipe's paths are absolute; the file's name is for messages.
    let file = path.join(RECIPE_FILE);
    plugins::load_of_recipe(&mut parse_yaml(&manifest.recipe, &file)?, &file)?;
    let recipe = Recipe::from_yaml(&manifest.recipe, &file)?;
    recipes::demo_folder()?;
    let registries = Registries::collect()?;
    let session = Session::new(recipe, &registries, device::open(&manifest.device)?)?;
    manifest.check(path, &session.weights_file()?)?;
    let console = Console::new();
    header(&session, &console);
    run(&session, &registries, Some((directory, manifest)), &console, output)
}

/// A run directory with what it belongs to.
type Kept = Option<(RunDirectory, Manifest)>;

fn run(session: &Session<'_>, registries: &Registries, kept: Kept, console: &Console, output: Output) -> Result<Value> {
    let Some((directory, mut manifest)) = kept else {
        let (value, _) = run_stages(session, registries, None, console, console, output)?;
        console.line("not saved; give --out DIR to keep the quantized network");
        return Ok(value);
    };
    let log = EventLog::open(&directory, console)?;
    let kept = Directory { directory: &directory, manifest: &mut manifest };
    let result = run_stages(session, registries, Some(kept), console, &log, output);
    // A log that cannot be written is why the run was cancelled.
    log.check()?;
    let path = directory.path().display();
    match result {
        Ok((mut value, (result, summary))) => {
            save(&directory, &result.model, &summary).context("saving the result")?;
            directory.remove_spill_folder();
            console.line(&format!("saved in {path}"));
            value["out"] = json!(directory.path());
            Ok(value)
        }
        Err(error) if console.cancelled() => Err(error.context(format!("go on with `qdrop resume {path}`"))),
        Err(error) => Err(error),
    }
}

/// The run directory in use.
struct Directory<'a> {
    directory: &'a RunDirectory,
    manifest: &'a mut Manifest,
}

/// What the JSON line says, and what is saved.
type Outcome = (Value, (RunResult, Summary));

fn run_stages(
    session: &Session<'_>,
    registries: &Registries,
    kept: Option<Directory<'_>>,
    console: &Console,
    progress: &dyn Progress,
    output: Output,
) -> Result<Outcome> {
    let recipe = session.recipe();
    let directory = kept.as_ref().map(|k| k.directory);
    let cache = session.cache(directory.map_or_else(std::env::temp_dir, RunDirectory::spill_folder));
    let set = session.calibration_images(&cache, progress).context("loading the calibration images")?;
    if let Some(Directory { directory, manifest }) = kept {
        directory.check_calibration(manifest, &set.fingerprint)?;
    }
    let stages = Stages { directory, cache, set, progress };
    let float = stages.kept_or(FLOAT_FILE, || {
        let float_model = session.float_model().context("loading the float network")?;
        let measured =
            session.evaluate(&float_model, Precision::Float, progress).context("evaluating the float network")?;
        Ok(Row { name: "float".into(), bits: "w32a32".into(), measured, seconds: None })
    })?;
    let float_measured = float.measured.clone();
    let mut rows = vec![float];
    for (i, variant) in recipe.compare.iter().enumerate() {
        console.line(&format!("{}:", variant.name));
        let row = stages.kept_or(&format!("compare-{i}.json"), || {
            let session = Session::new(recipe.variant(variant)?, registries, session.device().clone())?;
            Ok(stages.quantize_and_measure(&session, Some(i), &variant.name)?.1)
        });
        rows.push(row.with_context(|| format!("variant '{}'", variant.name))?);
    }
    if !recipe.compare.is_empty() {
        console.line(&format!("{}:", recipe.reconstruction.name));
    }
    let (result, row) = stages.quantize_and_measure(session, None, &recipe.reconstruction.name)?;
    let summary = Summary {
        recipe: recipe.name.clone(),
        setting: recipe.quant.setting.to_string(),
        bits: recipe.bits(),
        seed: recipe.seed,
        reconstruction: recipe.reconstruction.name.clone(),
        float: float_measured,
        quantized: row.measured.clone(),
        seconds: result.seconds,
        peak_rss_bytes: peak_resident_bytes(),
        notice: session.notice(),
    };
    rows.push(row);
    output.print(&table(&rows, &summary, session.task())?);
    let mut value = serde_json::to_value(&summary)?;
    let metrics = session.task().metrics();
    let others = rows.iter().map(|row| {
        let mut other = json!({ "name": row.name, "bits": row.bits });
        for metric in &metrics {
            other[&metric.key] = json!(row.measured.value(metric)?);
        }
        Ok(other)
    });
    value["rows"] = others.collect::<Result<_>>()?;
    value["units"] = result
        .units
        .iter()
        .map(|u| json!({ "name": u.name, "seconds": u.seconds, "loss": u.mean_losses(true) }))
        .collect();
    value["out"] = Value::Null;
    Ok((value, (result, summary)))
}

/// What the stages of a run share.
struct Stages<'a> {
    directory: Option<&'a RunDirectory>,
    cache: Arc<CacheBudget>,
    set: CalibrationSet,
    progress: &'a dyn Progress,
}

impl Stages<'_> {
    /// The row that an earlier process kept, or a new one.
    fn kept_or(&self, name: &str, compute: impl FnOnce() -> Result<Row>) -> Result<Row> {
        let Some(directory) = self.directory else { return compute() };
        if let Some(row) = directory.load(name)? {
            return Ok(row);
        }
        let row = compute()?;
        directory.store(name, &row)?;
        Ok(row)
    }

    /// Quantizes the session's network and measures the result; `name` is what the table calls it.
    fn quantize_and_measure(
        &self,
        session: &Session<'_>,
        variant: Option<usize>,
        name: &str,
    ) -> Result<(RunResult, Row)> {
        let checkpoints = self.directory.map(|d| d.checkpoints(variant));
        let resources = Resources {
            images: self.set.images.clone(),
            cache: self.cache.clone(),
            random: &session.random(),
            progress: self.progress,
            engine: session.recipe().engine,
            merge: &session.recipe().reconstruction.merge,
            checkpoints: checkpoints.as_ref(),
        };
        let model = session.float_model().context("loading the float network")?;
        let result = session.quantize(model, &resources).context("quantizing")?;
        let measured = session
            .evaluate(&result.model, Precision::Quantized, self.progress)
            .context("evaluating the quantized network")?;
        let row = Row { name: name.into(), bits: session.recipe().bits(), measured, seconds: Some(result.seconds) };
        Ok((result, row))
    }
}
