//! Measures networks on the evaluation images of a session, records what they give, and draws it.

use super::evaluate::{indices, Look, Network, Pass};
use super::{evaluate, evaluate_pairs, Pair, PairMeasurement, Part, Session};
use crate::dataset::{Dataset, Split};
use crate::error::{Error, Result};
use crate::model::{Precision, QuantModel};
use crate::picture::Picture;
use crate::progress::Progress;
use crate::task::{Drawn, ImageValues, Measurement};
use candle_core::Tensor;

/// A network whose results are drawn.
#[derive(Clone, Copy)]
pub struct ShownNetwork<'a> {
    /// The network in a few words, such as `float`.
    pub title: &'a str,
    /// The network.
    pub model: &'a QuantModel,
    /// How it computes.
    pub precision: Precision,
}

impl Session<'_> {
    /// Measures a model on the evaluation images. If the recipe says so (`evaluation.against_float`), a quantized network is
    /// also compared with the float network.
    ///
    /// # Errors
    /// The data cannot be read, more images are broken than the recipe accepts, images, network and task do not match, or
    /// the float network that is compared with cannot be loaded.
    pub fn evaluate(&self, model: &QuantModel, precision: Precision, progress: &dyn Progress) -> Result<Measurement> {
        self.evaluate_images(model, precision, progress).map(|(measured, _)| measured)
    }

    /// [Measures](Self::evaluate) a model, and also returns what the task measures on single images: all of its image metrics if the
    /// network is compared with the float one, else those that are metrics of a network alone, such as top-1.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn evaluate_images(
        &self,
        model: &QuantModel,
        precision: Precision,
        progress: &dyn Progress,
    ) -> Result<(Measurement, Vec<ImageValues>)> {
        let dataset = self.dataset_with_notes(Split::Evaluation, progress)?;
        self.measure(&*dataset, Network { model, precision }, &mut |_, _| Ok(()), progress)
    }

    /// [Measures](Self::evaluate) a model, and also returns a [record](crate::Task::record) of what it gives for each image.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate), or the task records nothing.
    pub fn record(
        &self,
        model: &QuantModel,
        precision: Precision,
        progress: &dyn Progress,
    ) -> Result<(Measurement, String)> {
        let dataset = self.dataset_with_notes(Split::Evaluation, progress)?;
        let name = &self.recipe.task.name;
        let none = || Error::setting("task", format!("the task '{name}' writes no file of what is found"));
        let mut record = self.task().record(&dataset.categories())?.ok_or_else(none)?;
        let mut look = |part: &Part, outputs: &[_]| record.update(outputs, &part.targets);
        let (measured, _) = self.measure(&*dataset, Network { model, precision }, &mut look, progress)?;
        Ok((measured, record.finish()?))
    }

    fn measure(
        &self,
        dataset: &dyn Dataset,
        network: Network<'_>,
        look: Look<'_>,
        progress: &dyn Progress,
    ) -> Result<(Measurement, Vec<ImageValues>)> {
        let (task, settings) = (self.task(), &self.recipe.evaluation);
        let Network { model, precision } = network;
        if !(settings.against_float && precision == Precision::Quantized) {
            let alone: Vec<String> = task.metrics().into_iter().map(|metric| metric.key).collect();
            let mut images = ImageValues::of_task(task);
            let is_wanted = images.iter().any(|image| alone.contains(&image.metric.key));
            let mut look_too = |part: &Part, outputs: &[Tensor]| {
                if is_wanted {
                    // Metrics of a network alone do not depend on the float one.
                    ImageValues::extend(&mut images, task.image_values(outputs, outputs, &part.targets)?);
                }
                look(part, outputs)
            };
            let measured = evaluate(model, dataset, task, precision, settings, &mut look_too, progress)?;
            images.retain(|image| alone.contains(&image.metric.key));
            return Ok((measured, images));
        }
        self.check_compares("task")?;
        let float = self.float_model()?;
        let pair = Pair { quantized: model, float: &float };
        let measured = evaluate_pairs(&[pair], dataset, task, settings, look, progress)?;
        let measured = measured.into_iter().next().map(|pair| (pair.measured, pair.images));
        measured.ok_or_else(|| Error::message("no network was measured"))
    }

    /// Measures quantized networks, which may have other recipes than this session's, on this session's evaluation images,
    /// and compares each with its float network.
    ///
    /// # Errors
    /// The task compares no networks, or one of the errors of [`evaluate`](Self::evaluate).
    pub fn evaluate_pairs(&self, pairs: &[Pair<'_>], progress: &dyn Progress) -> Result<Vec<PairMeasurement>> {
        self.check_compares("task")?;
        let dataset = self.dataset_with_notes(Split::Evaluation, progress)?;
        evaluate_pairs(pairs, &*dataset, self.task(), &self.recipe.evaluation, &mut |_, _| Ok(()), progress)
    }

    /// [Draws](crate::Task::draw) what the networks, of which there is one at least, give for the first `count` evaluation images,
    /// one picture after the other. An image that cannot be read is reported and left out.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate) and of `write`; the dataset gives no pictures, or the task draws none.
    pub fn draw(
        &self,
        networks: &[ShownNetwork<'_>],
        count: usize,
        write: &mut dyn FnMut(&Picture) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let dataset = self.dataset(Split::Evaluation)?;
        let categories = dataset.categories();
        let mut indices = indices(&*dataset, &self.recipe.evaluation)?;
        indices.truncate(count);
        let (task, data) = (&self.recipe.task.name, &self.recipe.data.name);
        // Whether an image can be read is judged where all are measured.
        let pass =
            Pass { max_broken_percent: 100.0, ..Pass::new(&*dataset, &self.recipe.evaluation, "drawing", progress) };
        let computed: Vec<Network<'_>> =
            networks.iter().map(|&ShownNetwork { model, precision, .. }| Network { model, precision }).collect();
        pass.run(&computed, &indices, |part, outputs| {
            for (i, (index, target)) in part.indices.iter().zip(&part.targets).enumerate() {
                let none = || Error::setting("data", format!("the dataset '{data}' gives no pictures to draw on"));
                let picture = dataset.picture(*index)?.ok_or_else(none)?;
                let drawn = networks.iter().zip(outputs).map(|(network, outputs)| {
                    let of_image = outputs.iter().map(|output| Ok(output.narrow(0, i, 1)?)).collect::<Result<_>>();
                    Ok(Drawn { title: network.title, outputs: of_image? })
                });
                let drawn = drawn.collect::<Result<Vec<_>>>()?;
                let none = || Error::setting("task", format!("the task '{task}' draws no pictures"));
                write(&self.task().draw(&picture, target, &drawn, &categories)?.ok_or_else(none)?)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}
