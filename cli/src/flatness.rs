//! Measures the loss around the weights of a saved result.

use crate::error::{At, Result, Stage};
use crate::evaluation::{check_saved, float_weights};
use crate::html::flatness_figure;
use crate::kept::{Curves, Flatness};
use crate::recipes::Loader;
use crate::Evaluation;
use qdrop_core::dataset::Split;
use qdrop_core::head::ImageSize;
use qdrop_core::pipeline::{load_ahead, Batches, CalibrationSet, Registries, Session};
use qdrop_core::progress::{Event, Progress};
use qdrop_core::run_directory::{check_writable, write_file, write_json};
use qdrop_core::task::Metric;
use qdrop_core::{candle_core::Tensor, Error as Core};
use std::ops::ControlFlow;
use std::path::Path;

/// Images of each kind, unless a number is given.
const IMAGES: usize = 256;
/// The same where images differ in size, which are large.
const LARGE_IMAGES: usize = 8;
/// Images of a batch.
const BATCH: usize = 32;

impl Flatness {
    /// Checks that the folder `dir` holds a finished run whose loss can be measured and kept there, and returns what the loss is.
    ///
    /// # Errors
    /// There is no finished run, a plugin of its recipe cannot be loaded, the task does not compare networks without a ground truth, or
    /// the folder cannot be written.
    pub fn check(dir: &Path, progress: &dyn Progress) -> Result<Metric> {
        if !dir.is_dir() {
            let message = "is not the folder of a finished run, where what is measured is kept";
            return Err(Core::data(dir, message)).at(Stage::SavedResult);
        }
        check_saved(dir)?;
        let recipe = Loader::of_saved(dir).progress(progress).load()?;
        let task = Registries::collect().and_then(|registries| registries.task_of(&recipe)).at(Stage::Setup)?;
        let metric = task.deviation_metrics().into_iter().next().ok_or_else(|| {
            let name = &recipe.task.name;
            Core::setting("task", format!("the task '{name}' does not compare networks without a ground truth"))
        });
        for name in [Self::FILE, Self::TABLE, Self::FIGURE] {
            check_writable(&dir.join(name)).at(Stage::Saving)?;
        }
        metric.at(Stage::Flatness)
    }

    /// Measures the finished run in the folder `dir` on so many images of each kind (by default 256, and 8 where images differ in size), on the CPU, and keeps the result in the folder: as JSON, as a
    /// table and as a figure.
    ///
    /// # Errors
    /// There is no saved result or a damaged one, the float checkpoint is not that of the run, images cannot be read, the task does
    /// not compare networks without a ground truth, the files cannot be written, or the work was cancelled.
    pub fn measure(dir: &Path, images: Option<usize>, progress: &dyn Progress) -> Result<Self> {
        let metric = Self::check(dir, progress)?;
        let (recipe, registries, saved) = Evaluation::new(dir).progress(progress).open()?;
        float_weights(dir, &saved, &saved.session(recipe.clone(), &registries).at(Stage::Setup)?)?;
        let quantized = saved.model;
        let asked = images;
        let images = asked.unwrap_or(if quantized.graph().any_size() { LARGE_IMAGES } else { IMAGES });
        let session = Session::new(recipe, &registries, quantized.device().clone()).at(Stage::Setup)?;
        let mut float = session.float_model().at(Stage::FloatNetwork)?;
        let cache = session.cache(std::env::temp_dir());
        let set = session.calibration_images(&cache, progress).at(Stage::CalibrationImages)?;
        session.prepare(&mut float, &set.images, progress).at(Stage::Preparation)?;
        let on = |batches: &Batches| -> Result<Curves> {
            let curves = session.flatness((&float, &quantized), batches, progress).at(Stage::Flatness)?;
            Ok(Curves { images: batches.iter().map(|(_, sizes)| sizes.len()).sum(), curves })
        };
        let calibration = on(&of_calibration(&set, images).at(Stage::CalibrationImages)?)?;
        let evaluation = on(&of_evaluation(&session, images, progress).at(Stage::Evaluation)?)?;
        for (kind, measured) in [("calibration", calibration.images), ("evaluation", evaluation.images)] {
            if asked.is_some_and(|asked| measured < asked) {
                let message = format!("flatness is measured on {measured} {kind} images: the run has no more of them");
                progress.event(Event::Warning(message));
            }
        }
        let flatness = Self { metric, calibration, evaluation };
        let figure = flatness_figure(&[(String::new(), &flatness)]);
        write_json(&dir.join(Self::FILE), &flatness).at(Stage::Saving)?;
        for (name, content) in [(Self::TABLE, flatness.csv()), (Self::FIGURE, figure)] {
            write_file(&dir.join(name), content.as_bytes()).at(Stage::Saving)?;
        }
        Ok(flatness)
    }
}

/// The first calibration images, batch by batch.
fn of_calibration(set: &CalibrationSet, count: usize) -> qdrop_core::Result<Vec<(Tensor, Vec<ImageSize>)>> {
    let (count, together) = (count.min(set.images.samples()), set.images.together().min(BATCH));
    let batch = |start: usize| {
        let images = set.images.range(start, together.min(count - start))?;
        let (n, _, height, width) = images.dims4()?;
        Ok((images, vec![ImageSize::whole([height, width]); n]))
    };
    (0..count).step_by(together.max(1)).map(batch).collect()
}

/// The first evaluation images, batch by batch, not more than the recipe evaluates. Those that cannot be read are left out.
fn of_evaluation(
    session: &Session<'_>,
    count: usize,
    progress: &dyn Progress,
) -> qdrop_core::Result<Vec<(Tensor, Vec<ImageSize>)>> {
    let dataset = session.dataset_with_notes(Split::Evaluation, progress)?;
    let evaluated = session.recipe().evaluation.images.unwrap_or(usize::MAX);
    let indices: Vec<usize> = (0..count.min(evaluated).min(dataset.len())).collect();
    let mut batches = Vec::new();
    load_ahead(&*dataset, indices.chunks(BATCH), session.graph().input_shape(), session.device(), |batch| {
        if progress.cancelled() {
            return Err(Core::Cancelled);
        }
        batches.extend(batch.parts.into_iter().map(|part| (part.images, part.sizes)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(batches)
}
