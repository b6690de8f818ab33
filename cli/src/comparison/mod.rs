//! Two saved results, measured on the same images and compared image by image.

mod results;
mod same;
mod table;

pub use results::{Compared, ComparedResult};
pub(crate) use table::probability;

use crate::error::{At, Result, Stage};
use crate::evaluation::{float_weights, Evaluation};
use qdrop_core::model::QuantModel;
use qdrop_core::pipeline::{Pair, PairMeasurement, Session};
use qdrop_core::progress::{Progress, Silent, WarnOnce};
use qdrop_core::recipe::Recipe;
use qdrop_core::Error as Core;
use results::Opened;
use same::check_same;
use std::path::{Path, PathBuf};
use table::text;

/// Compares two saved results, each the folder of a run or a packed file: see [`Comparison`].
///
/// # Errors
/// Those of [`Comparison::run`].
pub fn compare(a: impl Into<PathBuf>, b: impl Into<PathBuf>) -> Result<Compared> {
    Comparison::new(a, b).run()
}

/// Measures two saved quantized networks on the same images, and compares them with each other and with their
/// float networks. The images are those of the first result; if the recipes evaluate different numbers of them, the
/// smaller number. All networks see each batch in one pass.
#[must_use = "`run` compares"]
pub struct Comparison<'a> {
    paths: [PathBuf; 2],
    data: Option<PathBuf>,
    device: String,
    progress: &'a dyn Progress,
}

impl Comparison<'_> {
    /// For the results `a` and `b`, each the folder of a run or a packed file, on the CPU.
    pub fn new(a: impl Into<PathBuf>, b: impl Into<PathBuf>) -> Self {
        Self { paths: [a.into(), b.into()], data: None, device: "cpu".into(), progress: &Silent }
    }

    /// Sets the folder with the images for both results, if it differs from that of the runs.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = Some(folder.into());
        self
    }

    /// Sets the device: `cpu`, `cuda` or `cuda:N`.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = name.into();
        self
    }
}

impl<'a> Comparison<'a> {
    /// Sets the receiver of events, which can also request to stop.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// Measures and compares.
    ///
    /// # Errors
    /// One is no saved result or a damaged one; the results are of different tasks, classes or preprocessing; the
    /// task does not compare networks; a checkpoint with float weights is not the one that its run began with; the images
    /// cannot be read; or the work was cancelled.
    pub fn run(&self) -> Result<Compared> {
        let progress = WarnOnce::new(self.progress);
        let [path_a, path_b] = &self.paths;
        let (mut a, b) = (self.open(path_a, &progress)?, self.open(path_b, &progress)?);
        // The first images are common to both.
        let images = [&a, &b].iter().filter_map(|opened| opened.recipe.evaluation.images).min();
        a.recipe.evaluation.images = images;
        let (session_a, session_b) = (a.session()?, b.session()?);
        check_same(&a, &session_a, &b, &session_b).at(Stage::Comparison)?;
        let (float_a, float_b) = floats(&a, &session_a, &b, &session_b)?;
        let pairs = [
            Pair { quantized: &a.saved.model, float: &float_a },
            Pair { quantized: &b.saved.model, float: float_b.as_ref().unwrap_or(&float_a) },
        ];
        let measured = session_a.evaluate_pairs(&pairs, &progress).at(Stage::Comparison)?;
        let measured = <[PairMeasurement; 2]>::try_from(measured);
        let [of_a, of_b] =
            measured.map_err(|_| Core::message("two networks were not measured")).at(Stage::Comparison)?;
        let metrics = of_a.images.iter().zip(&of_b.images).map(|(a, b)| a.compare(b));
        let metrics = metrics.collect::<qdrop_core::Result<Vec<_>>>().at(Stage::Comparison)?;
        let (a, b) = (a.result(of_a.measured), b.result(of_b.measured));
        let text = text(&a, &b, &metrics);
        Ok(Compared { a, b, metrics, text })
    }

    fn open(&self, path: &Path, progress: &dyn Progress) -> Result<Opened> {
        let mut evaluation = Evaluation::new(path).device(&self.device).progress(progress);
        if let Some(data) = &self.data {
            evaluation = evaluation.data(data);
        }
        let (recipe, registries, saved) = evaluation.open()?;
        Ok(Opened { path: path.into(), recipe, registries, saved })
    }
}

/// The float networks of both results; the second one only if it differs from the first.
fn floats(
    a: &Opened,
    session_a: &Session<'_>,
    b: &Opened,
    session_b: &Session<'_>,
) -> Result<(QuantModel, Option<QuantModel>)> {
    let weights = [float_weights(&a.path, &a.saved, session_a)?, float_weights(&b.path, &b.saved, session_b)?];
    let network = |opened: &Opened| {
        let Recipe { model, tf32, .. } = &opened.recipe;
        (model.architecture.clone(), model.weights_key.clone(), *tf32)
    };
    let float = session_a.float_model().at(Stage::FloatNetwork)?;
    if weights[0] == weights[1] && network(a) == network(b) {
        return Ok((float, None));
    }
    Ok((float, Some(session_b.float_model().at(Stage::FloatNetwork)?)))
}
