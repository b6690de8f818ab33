//! Saved results: their summary, and measuring their network.

use crate::error::{At, Result, Stage};
use crate::extras::Extras;
use crate::recipes::{absolute, Loader};
use qdrop_core::model::Precision;
use qdrop_core::packed::Packed;
use qdrop_core::pipeline::{load_saved, Registries, SavedModel, Session, Summary};
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::recipe::Recipe;
use qdrop_core::run_directory::{check_weights, read_json, MANIFEST_FILE, SUMMARY_FILE};
use qdrop_core::task::{shown_metrics, Measurement, Task};
use qdrop_core::{device, Error as Core};
use std::path::{Path, PathBuf};

/// The summary that a finished run saved in the folder `dir`; `None` if there is none.
///
/// # Errors
/// The summary cannot be read or is damaged.
pub fn summary(dir: impl AsRef<Path>) -> Result<Option<Summary>> {
    match read_json(&dir.as_ref().join(SUMMARY_FILE)) {
        // `dir` is not a folder, so it holds no summary.
        Err(Core::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
        read => read.at(Stage::SavedResult),
    }
}

/// Whether `path` is a saved result: the folder of a finished run, or a packed file.
///
/// # Errors
/// The file or the summary in the folder cannot be read, or the summary is damaged.
pub fn is_saved(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    Ok(Packed::recognizes(path).at(Stage::SavedResult)? || summary(path)?.is_some())
}

/// Checks that `path` is a saved result.
pub(crate) fn check_saved(path: &Path) -> Result<()> {
    if is_saved(path)? {
        return Ok(());
    }
    let message = match (path.is_file(), path.join(MANIFEST_FILE).exists()) {
        (true, _) => "is neither the folder of a finished run nor a packed file".into(),
        (false, true) => format!(
            "holds no saved result: {SUMMARY_FILE} is missing; its run is not finished, `qdrop resume {}` continues it",
            path.display()
        ),
        (false, false) => format!("holds no saved result: {SUMMARY_FILE} is missing"),
    };
    Err(Core::data(path, message)).at(Stage::SavedResult)
}

/// Measures the quantized network that a run saved in the folder `path`, or the one in the packed file `path`: see
/// [`Evaluation`].
///
/// # Errors
/// Those of [`Evaluation::run`].
pub fn evaluate(path: impl Into<PathBuf>) -> Result<Measurement> {
    Ok(Evaluation::new(path).run()?.measured)
}

/// The measurement of a network.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluated {
    /// The values of all metrics of the recipe's task.
    pub measured: Measurement,
    /// The same as one line of text.
    pub text: String,
}

impl Evaluated {
    pub(crate) fn new(measured: Measurement, task: &dyn Task) -> Result<Self> {
        let text = measured.text(&shown_metrics(task, &measured)).at(Stage::Evaluation)?;
        Ok(Self { measured, text })
    }
}

/// Measures the quantized network that a run saved, on the evaluation images of its recipe.
#[must_use = "`run` measures"]
pub struct Evaluation<'a> {
    path: PathBuf,
    data: Option<PathBuf>,
    set: Vec<String>,
    device: String,
    against_float: bool,
    extras: Extras,
    progress: &'a dyn Progress,
}

impl Evaluation<'_> {
    /// For the result in the folder `path`, or the packed file `path`, on the CPU.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (data, set, extras) = (None, Vec::new(), Extras::default());
        Self { path: path.into(), data, set, device: "cpu".into(), against_float: false, extras, progress: &Silent }
    }

    /// Sets the folder with the images, if it differs from the run's.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = Some(folder.into());
        self
    }

    /// Changes how the network is measured: `key=value` as of [`Loader::set`], where the key is `data`, `task`, `evaluation`
    /// or below one of them, such as `data={name: numpy, params: {images: eval.npy, labels: labels.npy}}`.
    pub fn set(mut self, change: impl Into<String>) -> Self {
        self.set.push(change.into());
        self
    }

    /// Sets the device: `cpu`, `cuda` or `cuda:N`.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = name.into();
        self
    }

    /// Also writes what the network finds, or pictures of it. Pictures need the float network's checkpoint.
    pub fn extras(mut self, extras: Extras) -> Self {
        self.extras = extras;
        self
    }

    /// Also compares the network's outputs with those of the float network on the same images, as the recipe's task says;
    /// for classification these are the agreement of the predictions and KL(float || quantized). The recipe's
    /// `evaluation.against_float` does the same.
    pub fn against_float(mut self) -> Self {
        self.against_float = true;
        self
    }
}

impl<'a> Evaluation<'a> {
    /// Sets the receiver of events, which can also request to stop.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// Measures.
    ///
    /// # Errors
    /// There is no saved result or a damaged one, a plugin cannot be loaded, the device cannot be used, the images cannot be
    /// read, a change is refused, or the work was cancelled; the float network is to be compared with or drawn, and its
    /// checkpoint is not that of the run; the task does not compare networks, or writes or draws nothing.
    pub fn run(&self) -> Result<Evaluated> {
        let (mut recipe, registries, saved) = self.open()?;
        recipe.evaluation.against_float |= self.against_float;
        let session = saved.session(recipe, &registries).at(Stage::Setup)?;
        let draws = self.extras.draw.is_some();
        if session.recipe().evaluation.against_float || draws {
            float_weights(&self.path, &saved, &session)?;
        }
        let float = draws.then(|| session.float_model()).transpose().at(Stage::FloatNetwork)?;
        let network = (&saved.model, Precision::Quantized);
        let measured = self.extras.measure(&session, network, float.as_ref(), self.progress)?;
        Evaluated::new(measured, session.task())
    }

    /// Loads the result without measuring it.
    ///
    /// # Errors
    /// There is no saved result or a damaged one, a plugin cannot be loaded, or the device cannot be used.
    pub(crate) fn open(&self) -> Result<(Recipe, Registries, SavedModel)> {
        check_saved(&self.path)?;
        let recipe = self.recipe()?;
        let device = device::open(&self.device).at(Stage::Device)?;
        let registries = Registries::collect().at(Stage::Setup)?;
        let saved = load_saved(&self.path, &registries, &device).at(Stage::SavedResult)?;
        Ok((recipe, registries, saved))
    }

    /// The recipe of the result, with its plugins loaded.
    fn recipe(&self) -> Result<Recipe> {
        let mut loader = Loader::of_saved(&self.path).progress(self.progress);
        for change in &self.set {
            let key = change.split(['=', '.']).next().unwrap_or_default().trim();
            if !["data", "task", "evaluation"].contains(&key) {
                let key = change.split('=').next().unwrap_or_default().trim();
                let message =
                    "a saved network cannot be changed, only how it is measured: `data`, `task` and `evaluation`";
                return Err(Core::setting(key, message)).at(Stage::Recipe);
            }
            loader = loader.set(change);
        }
        let mut recipe = loader.load()?;
        if let Some(data) = &self.data {
            recipe.data_root = Some(absolute(data)?);
        }
        Ok(recipe)
    }
}

/// Checks that the checkpoint with the float weights is still the one from which the saved result at `path` was made, and
/// returns its SHA-256.
pub(crate) fn float_weights(path: &Path, saved: &SavedModel, session: &Session<'_>) -> Result<String> {
    let Some(sha256) = &saved.float_weights else {
        let message = "does not say from which checkpoint it was made, so it cannot be compared with the float network";
        return Err(Core::data(path, message)).at(Stage::SavedResult);
    };
    let files = session.weights_files().at(Stage::FloatNetwork)?;
    check_weights(&files, sha256).at(Stage::FloatNetwork)?;
    Ok(sha256.clone())
}
