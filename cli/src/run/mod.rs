//! A run of a recipe: checks and estimates before it, and quantization with all its stages.

mod analysis;
mod check;
mod plan;
mod stages;

pub use check::Check;
pub use plan::Plan;

use crate::error::{At, Result, Stage};
use crate::evaluation::Evaluated;
use crate::extras::Extras;
use crate::kept::Analysis;
use crate::recipes::of_manifest;
use crate::report::Row;
use qdrop_core::dataset::Split;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::pipeline::{too_few_images, FloatSample, Registries, Session, Summary};
use qdrop_core::preparation::Change;
use qdrop_core::progress::{Event, Progress, Silent, WarnOnce};
use qdrop_core::recipe::Recipe;
use qdrop_core::report::UnitReport;
use qdrop_core::run_directory::{Manifest, RunDirectory};
use qdrop_core::task::Metric;
use qdrop_core::{candle_core, device};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A run of a recipe. By default it runs on the CPU and saves nothing.
///
/// ```
/// # fn main() -> qdrop::Result<()> {
/// let run = qdrop::Run::new(qdrop::recipes::load("demo")?)?;
/// let check = run.check()?;
/// assert_eq!((check.units, check.unchecked.len()), (10, 0));
/// # Ok(())
/// # }
/// ```
pub struct Run<'a> {
    recipe: Recipe,
    registries: Registries,
    device: candle_core::Device,
    device_name: String,
    kept: Kept,
    progress: WarnOnce<'a>,
    /// The result of [`Run::check`], once it has run.
    checked: OnceLock<Check>,
    /// The result of [`Run::check_float`], once it has run.
    float_sample: Option<Option<FloatSample>>,
    /// What [`Run::choose_bits`] measured, once bits were chosen.
    choice: Option<Analysis>,
}

/// Where checkpoints and results are saved.
enum Kept {
    /// Nowhere.
    Nothing,
    /// To a new run directory.
    New(PathBuf),
    /// To the directory of an interrupted run.
    Begun(Box<(RunDirectory, Manifest)>),
}

/// The result of a run.
#[non_exhaustive]
pub struct Outcome {
    /// The quantized network.
    pub model: QuantModel,
    /// The measurements and the conditions of the run.
    pub summary: Summary,
    /// The float network, the recipe's variants and the quantized network in this order.
    pub rows: Vec<Row>,
    /// The task's metrics; the first one is compared with published values.
    pub metrics: Vec<Metric>,
    /// The report of each unit.
    pub units: Vec<UnitReport>,
    /// The rows as a table, with the conditions of the run.
    pub table: String,
    /// The folder with the saved result, if the run was saved.
    pub out: Option<PathBuf>,
}

impl<'a> Run<'a> {
    /// A new run of the recipe.
    ///
    /// # Errors
    /// Two linked crates or loaded plugins register the same name.
    pub fn new(recipe: Recipe) -> Result<Self> {
        let registries = Registries::collect().at(Stage::Setup)?;
        let device = candle_core::Device::Cpu;
        let (kept, progress) = (Kept::Nothing, WarnOnce::new(&Silent));
        let (device_name, checked) = ("cpu".into(), OnceLock::new());
        let (float_sample, choice) = (None, None);
        Ok(Self { recipe, registries, device, device_name, kept, progress, checked, float_sample, choice })
    }

    /// Opens the interrupted run in the folder `dir`. It resumes where it was stopped, and its result is bit-identical
    /// to that of an uninterrupted run. A finished run only measures its networks again.
    ///
    /// # Errors
    /// The folder holds no run, another process works on it, or the recipe, the weights, a plugin or the version of
    /// qdrop differ from those that the run began with.
    pub fn resume(dir: impl AsRef<Path>, progress: &'a dyn Progress) -> Result<Self> {
        let dir = dir.as_ref();
        let (directory, manifest) = RunDirectory::open(dir).at(Stage::RunDirectory)?;
        let recipe = of_manifest(dir, &manifest, progress)?;
        let mut run = Self::new(recipe)?.device(&manifest.device)?.progress(progress);
        let weights = run.session()?.weights_files().at(Stage::FloatNetwork)?;
        manifest.check(dir, &weights).at(Stage::RunDirectory)?;
        run.kept = Kept::Begun(Box::new((directory, manifest)));
        Ok(run)
    }

    /// Sets the device: `cpu`, `cuda` or `cuda:N`.
    ///
    /// # Errors
    /// The name is unknown, the library was built without the feature `cuda`, or there is no such GPU.
    pub fn device(mut self, name: &str) -> Result<Self> {
        self.device = device::open(name).at(Stage::Device)?;
        self.device_name = name.into();
        Ok(self)
    }

    /// Saves the run in the folder `dir`, which must be empty or not exist: checkpoints from which
    /// [`resume`](Self::resume) continues, a log of events, and the result.
    ///
    /// # Errors
    /// The folder holds a run or anything else, or cannot be created.
    pub fn out(mut self, dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        RunDirectory::check_free(&dir).at(Stage::RunDirectory)?;
        self.kept = Kept::New(dir);
        Ok(self)
    }

    /// Sets the receiver of events, which can also request to stop.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress: WarnOnce::new(progress), ..self }
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The framework's session of the run, for everything that this library has no function for.
    ///
    /// # Errors
    /// A name of the recipe is unknown, a parameter is wrong, or the network cannot be built.
    pub fn session(&self) -> Result<Session<'_>> {
        Session::new(self.recipe.clone(), &self.registries, self.device.clone()).at(Stage::Setup)
    }

    /// Checks everything that can be checked without computing with images: names and parameters, whether every unit can
    /// be reconstructed, and the weights and images if they are given; of the recipe and of its variants.
    /// [`quantize`](Self::quantize) does the same before a new run.
    ///
    /// # Errors
    /// A name is unknown, a parameter is wrong, the weights do not match the network, the images cannot be found or are
    /// too few, or a unit cannot be reconstructed.
    pub fn check(&self) -> Result<Check> {
        let check = self.checked()?.clone();
        if let (Some([images, _]), asked) = (check.images, self.recipe.calibration.images) {
            if images < asked {
                self.progress.event(Event::Warning(too_few_images(images, asked)));
            }
        }
        Ok(check)
    }

    /// The result of the check, which is made once.
    fn checked(&self) -> Result<&Check> {
        if let Some(check) = self.checked.get() {
            return Ok(check);
        }
        let check = check::check(&self.session()?, &self.registries, &self.progress)?;
        self.tell(check.place.clone());
        Ok(self.checked.get_or_init(|| check))
    }

    /// Measures the float network on a sample of the images and compares the result with the published one; `None` if
    /// the recipe has no published result. [`quantize`](Self::quantize) does this for a new run, unless it was done
    /// before.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); the result is far from the published one (the error names the likely cause); weights
    /// or images are not given.
    pub fn check_float(&mut self) -> Result<Option<&FloatSample>> {
        if self.float_sample.is_none() {
            self.float_sample = Some(self.float_sample()?);
        }
        Ok(self.float_sample.as_ref().and_then(Option::as_ref))
    }

    fn tell(&self, place: Option<String>) {
        if let Some(place) = place {
            self.progress.event(Event::Warning(place));
        }
    }

    fn float_sample(&self) -> Result<Option<FloatSample>> {
        let check = self.checked()?;
        let session = self.session()?;
        let model = session.float_model().at(Stage::FloatNetwork)?;
        if check.images.is_none() {
            // The error says what is not given.
            session.dataset(Split::Calibration).at(Stage::Data)?;
        }
        session.check_float(&model, &self.progress).at(Stage::FloatCheck)
    }

    /// What the recipe's preparations do to the float network, measured on the calibration images: the name of each, and
    /// its changes. Small channels that would be lost nevertheless are a warning. Nothing is computed without weights or
    /// images.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), a preparation fails, or the work was cancelled.
    pub fn prepared(&self) -> Result<Vec<(String, Vec<Change>)>> {
        if !self.checked()?.unchecked.is_empty() {
            return Ok(Vec::new());
        }
        let session = self.session()?;
        let mut model = session.float_model().at(Stage::FloatNetwork)?;
        let set = session.calibration_images(&session.cache(std::env::temp_dir()), &self.progress);
        let images = set.at(Stage::CalibrationImages)?.images;
        let prepared = session.prepare(&mut model, &images, &self.progress).at(Stage::Preparation)?;
        if let Some(warning) = session.uneven_channels(&model, &images).at(Stage::Preparation)? {
            self.progress.event(Event::Warning(warning));
        }
        Ok(prepared.changes)
    }

    /// Estimates time and memory of quantization from two steps of every unit. Weights and images need not be given.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), or the work was cancelled.
    pub fn plan(&self) -> Result<Plan> {
        let mut recipe = self.recipe.clone();
        if let Some([images, _]) = self.checked()?.images {
            recipe.calibration.images = recipe.calibration.images.min(images);
        }
        let session = Session::new(recipe, &self.registries, self.device.clone()).at(Stage::Setup)?;
        plan::plan(&session, &self.progress)
    }

    /// Measures the float network on the evaluation images, and writes what `extras` says.
    ///
    /// # Errors
    /// Weights or images are not given or cannot be used, or the work was cancelled; the task writes or draws nothing.
    pub fn evaluate_float(&self, extras: &Extras) -> Result<Evaluated> {
        let session = self.session()?;
        let (model, place) = session.float_network().at(Stage::FloatNetwork)?;
        self.tell(place);
        let measured = extras.measure(&session, (&model, Precision::Float), None, &self.progress)?;
        Evaluated::new(measured, session.task())
    }

    /// Runs all stages: bits are [chosen](Self::choose_bits) if the recipe asks for it, calibration images, float evaluation, the
    /// recipe's variants, calibration and reconstruction, evaluation. Saves the result if the run has a folder.
    ///
    /// # Errors
    /// A stage fails. If [`Error::is_cancelled`](crate::Error::is_cancelled), the work was stopped on request;
    /// [`resume`](Self::resume) continues it if the run has a folder.
    pub fn quantize(mut self) -> Result<Outcome> {
        if !matches!(self.kept, Kept::Begun(_)) {
            // Reports mistakes before anything long runs and before anything is written.
            self.check_float()?;
            self.choose_bits()?;
        }
        stages::quantize(self)
    }
}

/// Resumes the interrupted run in the folder `dir`: see [`Run::resume`].
///
/// # Errors
/// Those of [`Run::resume`] and [`Run::quantize`].
pub fn resume(dir: impl AsRef<Path>, progress: &dyn Progress) -> Result<Outcome> {
    Run::resume(dir, progress)?.quantize()
}
