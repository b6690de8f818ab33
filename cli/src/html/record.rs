//! What a run's directory holds, read without disturbing a process that works in it.

use super::log::Log;
use crate::error::{At, Result, Stage};
use crate::evaluation::summary;
use crate::kept::{measured_files, variant_file, FLOAT_FILE, IMAGES_FILE, SENSITIVITY_FILE, SITES_FILE};
use crate::kept::{Analysis, Flatness};
use crate::recipes::of_manifest;
use crate::report::{float_row, Row};
use qdrop_core::pipeline::{NetworkCost, Registries, Session, Summary};
use qdrop_core::progress::{Event, Progress};
use qdrop_core::recipe::Recipe;
use qdrop_core::report::{LossPoint, SiteReport, UnitReport};
use qdrop_core::run_directory::{
    read_json, CheckpointFolder, Manifest, RunDirectory, EVENTS_FILE, MANIFEST_FILE, MODEL_FILE, RECIPE_FILE,
};
use qdrop_core::task::{ImageValues, Metric, Task};
use qdrop_core::{candle_core, Error as Core};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has its result.
    Finished,
    /// A process works on it.
    Running,
    /// It was stopped before its end.
    Interrupted,
}

/// A unit that learns, or was interrupted.
pub struct Current {
    /// Name of the unit.
    pub name: String,
    /// Finished steps and their losses, perhaps not of every step.
    pub losses: Vec<(usize, LossPoint)>,
}

/// What a run's directory holds.
pub struct Record {
    pub dir: PathBuf,
    pub state: State,
    pub manifest: Manifest,
    pub recipe: Recipe,
    pub task: Box<dyn Task>,
    /// What the quantized network takes, or why it is not known any more.
    pub cost: std::result::Result<NetworkCost, String>,
    pub summary: Option<Summary>,
    /// Networks that are measured: the float one, variants, the quantized one.
    pub rows: Vec<Row>,
    /// Reports of finished units.
    pub units: Vec<UnitReport>,
    /// The unit of the recipe's own quantization that is being learned.
    pub current: Option<Current>,
    /// The variant of the recipe that is being quantized, before the recipe itself.
    pub variant: Option<String>,
    /// What quantization did at each site of finished units.
    pub sites: Vec<SiteReport>,
    pub images: Vec<ImageValues>,
    pub analysis: Option<Analysis>,
    pub flatness: Option<Flatness>,
    pub log: Log,
    /// What is damaged or gone and therefore left out, and what to do.
    pub gaps: Vec<String>,
}

impl Record {
    /// Reads the directory of a run, which may be finished, interrupted or running.
    ///
    /// # Errors
    /// It holds no run, its manifest cannot be read or is damaged, or a plugin of its recipe cannot be loaded.
    pub fn read(dir: &Path, progress: &dyn Progress) -> Result<Self> {
        if !dir.join(MANIFEST_FILE).is_file() {
            let message =
                format!("holds no run: {MANIFEST_FILE} is missing; `qdrop quantize RECIPE --out DIR` makes one");
            return Err(Core::data(dir, message)).at(Stage::SavedResult);
        }
        let manifest = Manifest::read(dir).at(Stage::SavedResult)?;
        let recipe = of_manifest(dir, &manifest, progress)?;
        let registries = Registries::collect().at(Stage::Setup)?;
        // The network's own file may have been moved since.
        let cost =
            Session::new(recipe.clone(), &registries, candle_core::Device::Cpu).and_then(|session| session.cost());
        let cost = cost.map_err(|cause| cause.to_string());
        let task = registries.task_of(&recipe).at(Stage::Setup)?;
        let mut gaps = Gaps { dir, progress, all: Vec::new() };
        let again = |command: &str| format!("`qdrop {command} {}` makes it again", dir.display());
        let saved = format!("{} from the checkpoints", again("resume"));
        let lost = format!("remove it, and {}", again("resume"));
        let summary = gaps.or_left_out(summary(dir), &saved).flatten();
        let state = match &summary {
            Some(_) => State::Finished,
            None if RunDirectory::is_in_use(dir) => State::Running,
            None => State::Interrupted,
        };
        if summary.is_some() {
            let gone = |name: &String| !dir.join(name).exists();
            let expected = [RECIPE_FILE, MODEL_FILE].map(String::from).into_iter();
            for name in expected.chain(measured_files(&recipe)).filter(gone) {
                gaps.say(format!("{name} is gone; {}", again("resume")));
            }
        }
        // What learned units said is lost with their checkpoints.
        let of_unit = if summary.is_some() { "" } else { &*lost };
        let mut rows: Vec<Row> = gaps.load(FLOAT_FILE, &lost).into_iter().collect();
        for i in 0..recipe.compare.len() {
            rows.extend(gaps.load::<Row>(&variant_file(i), &lost));
        }
        if let Some(summary) = &summary {
            if rows.is_empty() {
                rows.push(float_row(summary.float.clone()));
            }
            let (name, bits) = (summary.reconstruction.clone(), summary.bits.clone());
            rows.push(Row { name, bits, measured: summary.quantized.clone(), seconds: Some(summary.seconds) });
        }
        let checkpoints = CheckpointFolder::of_run(dir);
        let mut units = Vec::new();
        for unit in gaps.or_left_out(checkpoints.reports().at(Stage::SavedResult), "").unwrap_or_default() {
            units.extend(gaps.or_left_out(unit.at(Stage::SavedResult), of_unit));
        }
        let log = Log::read(&dir.join(EVENTS_FILE)).at(Stage::SavedResult);
        let log = gaps.or_left_out(log, "").unwrap_or_default();
        let variant = log
            .variant
            .clone()
            .filter(|name| state != State::Finished && recipe.compare.iter().any(|variant| variant.name == *name));
        let current = match state {
            _ if variant.is_some() => None,
            State::Finished => None,
            State::Running => log.unit.clone().map(|(name, losses)| Current { name, losses }),
            State::Interrupted => {
                let kept = checkpoints.interrupted_losses().at(Stage::SavedResult);
                let kept = gaps.or_left_out(kept, &lost).flatten();
                let numbered =
                    |losses: Vec<LossPoint>| losses.into_iter().enumerate().map(|(i, l)| (i + 1, l)).collect();
                kept.map(|(name, losses)| Current { name, losses: numbered(losses) })
            }
        };
        let current = current.filter(|current| units.iter().all(|unit| unit.name != current.name));
        // A stage for the whole network looks at all sites once more.
        let mut sites: Vec<SiteReport> = gaps.load(SITES_FILE, "").unwrap_or_default();
        for site in units.iter().flat_map(|unit| &unit.sites) {
            match sites.iter_mut().find(|one| one.name == site.name && one.kind == site.kind) {
                Some(earlier) => *earlier = site.clone(),
                None => sites.push(site.clone()),
            }
        }
        let images = gaps.load(IMAGES_FILE, &lost).unwrap_or_default();
        let analysis = gaps.load(SENSITIVITY_FILE, &again("analyze"));
        let flatness = gaps.load(Flatness::FILE, &again("flatness"));
        Ok(Self {
            dir: dir.into(),
            state,
            manifest,
            task,
            cost,
            summary,
            rows,
            units,
            current,
            variant,
            sites,
            images,
            analysis,
            flatness,
            log,
            gaps: gaps.all,
            recipe,
        })
    }

    /// The metrics that some network of the run was measured by.
    pub fn metrics(&self) -> Vec<Metric> {
        let all = self.task.metrics().into_iter().chain(self.task.image_metrics());
        let mut metrics: Vec<Metric> = Vec::new();
        for metric in all {
            let known = metrics.iter().any(|one| one.key == metric.key);
            if !known && self.rows.iter().any(|row| row.measured.values.contains_key(&metric.key)) {
                metrics.push(metric);
            }
        }
        metrics
    }

    /// A short name: that of the folder.
    pub fn name(&self) -> String {
        let name = self.dir.file_name().unwrap_or(self.dir.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// What is left out of a report: one file that is damaged does not cost the rest of it.
struct Gaps<'a> {
    dir: &'a Path,
    progress: &'a dyn Progress,
    all: Vec<String>,
}

impl Gaps<'_> {
    /// The value, or nothing and why. `advice` says what to do, if there is anything.
    fn or_left_out<T>(&mut self, read: Result<T>, advice: &str) -> Option<T> {
        let error = match read {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let cause = error.core().map_or_else(|| error.to_string(), ToString::to_string);
        let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
        self.say(format!("left out: {cause}{advice}"));
        None
    }

    fn say(&mut self, what: String) {
        self.progress.event(Event::Warning(what.clone()));
        self.all.push(what);
    }

    /// A file of the run; `None` if it does not exist or is damaged.
    fn load<T: DeserializeOwned>(&mut self, name: &str, advice: &str) -> Option<T> {
        self.or_left_out(read_json(&self.dir.join(name)).at(Stage::SavedResult), advice).flatten()
    }
}
