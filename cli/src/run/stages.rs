//! The stages of a run, from the calibration images to the saved result.

use super::{Kept, Outcome, Run};
use crate::error::{At, Error, Result, Stage};
use crate::html::html_report;
use crate::kept::{variant_file, FLOAT_FILE, IMAGES_FILE, REPORT_FILE, SENSITIVITY_FILE, SITES_FILE};
use crate::report::{float_row, table, Row};
use qdrop_core::cache::CacheBudget;
use qdrop_core::memory::peak_resident;
use qdrop_core::model::Precision;
use qdrop_core::pipeline::{
    save_model, save_summary, CalibrationSet, Registries, Resources, RunResult, Session, Summary,
};
use qdrop_core::progress::{Event, Progress, WarnOnce};
use qdrop_core::run_directory::{EventLog, Manifest, RunDirectory, MODEL_FILE};
use qdrop_core::Error as Core;
use std::sync::Arc;

/// Runs all stages.
pub fn quantize(mut run: Run<'_>) -> Result<Outcome> {
    let kept = std::mem::replace(&mut run.kept, Kept::Nothing);
    let session = run.session()?;
    let (directory, mut manifest) = match kept {
        Kept::Nothing => return run_stages(&session, &run.registries, None, &run.progress),
        Kept::Begun(begun) => *begun,
        Kept::New(dir) => {
            let weights = session.weights_files().at(Stage::FloatNetwork)?;
            let recipe = session.recipe().to_yaml().at(Stage::RunDirectory)?;
            let manifest = Manifest::new(recipe, &weights, &run.device_name).at(Stage::RunDirectory)?;
            let directory = RunDirectory::create(&dir, &manifest).at(Stage::RunDirectory)?;
            if let Some(analysis) = &run.choice {
                directory.store(SENSITIVITY_FILE, analysis).at(Stage::RunDirectory)?;
            }
            (directory, manifest)
        }
    };
    let log = EventLog::open(&directory, &run.progress).at(Stage::RunDirectory)?;
    let kept = Directory { directory: &directory, manifest: &mut manifest };
    let outcome = run_stages(&session, &run.registries, Some(kept), &WarnOnce::new(&log));
    // If the log could not be written, that is why the run was cancelled.
    log.check().at(Stage::RunDirectory)?;
    let outcome = outcome?;
    save_summary(&directory, &outcome.summary).at(Stage::Saving)?;
    let report = html_report(directory.path(), &run.progress);
    let written = report.and_then(|text| directory.write(REPORT_FILE, text.as_bytes()).at(Stage::Report));
    if let Err(cause) = written {
        // The result is saved, and whoever waited for it gets it.
        let path = directory.path().display();
        let message = format!("{REPORT_FILE} is not written: {cause}; `qdrop report {path}` tries it again");
        run.progress.event(Event::Warning(message));
    }
    directory.remove_spill_folder();
    Ok(Outcome { out: Some(directory.path().into()), ..outcome })
}

/// The run directory with its manifest.
struct Directory<'a> {
    directory: &'a RunDirectory,
    manifest: &'a mut Manifest,
}

fn run_stages(
    session: &Session<'_>,
    registries: &Registries,
    kept: Option<Directory<'_>>,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let recipe = session.recipe();
    let directory = kept.as_ref().map(|k| k.directory);
    let cache = session.cache(directory.map_or_else(std::env::temp_dir, RunDirectory::spill_folder));
    let set = session.calibration_images(&cache, progress).at(Stage::CalibrationImages)?;
    if let Some(Directory { directory, manifest }) = kept {
        directory.check_calibration(manifest, &set.fingerprint).at(Stage::RunDirectory)?;
    }
    let stages = Stages { directory, cache, set, progress };
    let float = stages.kept_or(FLOAT_FILE, || {
        let model = session.float_model().at(Stage::FloatNetwork)?;
        let measured = session.evaluate(&model, Precision::Float, progress).at(Stage::FloatEvaluation)?;
        Ok(float_row(measured))
    })?;
    let float_measured = float.measured.clone();
    let mut rows = vec![float];
    for (i, variant) in recipe.compare.iter().enumerate() {
        progress.event(Event::Variant { name: &variant.name });
        let row = stages.kept_or(&variant_file(i), || {
            let recipe = recipe.variant(variant).at(Stage::Recipe)?;
            let session = Session::new(recipe, registries, session.device().clone()).at(Stage::Setup)?;
            Ok(stages.quantize_and_measure(&session, Some(i), &variant.name)?.row)
        });
        rows.push(row.map_err(|cause| Error::Variant { name: variant.name.clone(), cause: Box::new(cause) })?);
    }
    if !recipe.compare.is_empty() {
        progress.event(Event::Variant { name: &recipe.reconstruction.name });
    }
    let Quantized { result, row, weights } = stages.quantize_and_measure(session, None, &recipe.reconstruction.name)?;
    let summary = Summary {
        recipe: recipe.name.clone(),
        setting: recipe.quant.setting.to_string(),
        bits: recipe.bits(),
        mixed: recipe.quant.mixed.as_ref().map(|mixed| mixed.target.to_string()),
        seed: recipe.seed,
        reconstruction: recipe.reconstruction.name.clone(),
        float: float_measured,
        quantized: row.measured.clone(),
        seconds: result.seconds,
        peak_rss_bytes: peak_resident().unwrap_or(0),
        peak_device_bytes: qdrop_core::device::peak_memory(session.device()).at(Stage::Evaluation)?,
        prepared: result.prepared.clone(),
        weights,
        notice: session.notice(),
    };
    rows.push(row);
    let table = table(&rows, &summary, session.task()).at(Stage::Evaluation)?;
    let metrics = session.task().metrics();
    Ok(Outcome { model: result.model, summary, rows, metrics, units: result.units, table, out: None })
}

/// A quantized network that was measured.
struct Quantized {
    result: RunResult,
    row: Row,
    /// Where its float weights were in the checkpoint, unless they were all of it.
    weights: Option<String>,
}

/// What all stages of a run use.
struct Stages<'a> {
    directory: Option<&'a RunDirectory>,
    cache: Arc<CacheBudget>,
    set: CalibrationSet,
    progress: &'a dyn Progress,
}

impl Stages<'_> {
    /// The row that an earlier process saved, or a newly computed one.
    fn kept_or(&self, name: &str, compute: impl FnOnce() -> Result<Row>) -> Result<Row> {
        let Some(directory) = self.directory else { return compute() };
        if let Some(row) = directory.load(name).at(Stage::RunDirectory)? {
            return Ok(row);
        }
        let row = compute()?;
        directory.store(name, &row).at(Stage::RunDirectory)?;
        Ok(row)
    }

    /// Quantizes the session's network and measures the result. `name` is its name in the table.
    fn quantize_and_measure(&self, session: &Session<'_>, variant: Option<usize>, name: &str) -> Result<Quantized> {
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
        let (model, weights) = session.float_network().at(Stage::FloatNetwork)?;
        let result = session.quantize(model, &resources).at(Stage::Quantization)?;
        // Saved before the evaluation, so that images that cannot be read do not cost the result of hours.
        let saved = self.directory.filter(|_| variant.is_none());
        if let Some(directory) = saved {
            save_model(directory, &result.model, session.recipe()).at(Stage::Saving)?;
            if !result.sites.is_empty() {
                directory.store(SITES_FILE, &result.sites).at(Stage::Saving)?;
            }
        }
        let measured = session.evaluate_images(&result.model, Precision::Quantized, self.progress).inspect_err(|e| {
            if let (Some(directory), false) = (saved, matches!(e, Core::Cancelled)) {
                let path = directory.path().display();
                let message = format!(
                    "the quantized network is saved as {path}/{MODEL_FILE}, but it is not measured; `qdrop resume {path}` \
                     measures it when the cause is removed"
                );
                self.progress.event(Event::Warning(message));
            }
        });
        let (measured, images) = measured.at(Stage::Evaluation)?;
        if let Some(directory) = saved {
            directory.store(IMAGES_FILE, &images).at(Stage::Saving)?;
        }
        let row = Row { name: name.into(), bits: session.recipe().bits(), measured, seconds: Some(result.seconds) };
        Ok(Quantized { result, row, weights })
    }
}
