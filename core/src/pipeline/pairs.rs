//! Measures networks on the same images, image by image, and compares their outputs with those of the float network.

use super::evaluate::{indices, Look, Network, Pass};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::model::{Precision, QuantModel};
use crate::progress::Progress;
use crate::recipe::EvaluationRecipe;
use crate::task::{ImageValues, Measurement, Meter, Task};

/// A quantized network and the float network that its outputs are compared with.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The quantized network.
    pub quantized: &'a QuantModel,
    /// The float network. Several pairs may share one, which is computed once then.
    pub float: &'a QuantModel,
}

/// What was measured of one network.
#[derive(Debug, Clone, PartialEq)]
pub struct PairMeasurement {
    /// The task's metrics as [`evaluate`](super::evaluate) measures them, and the means of its image metrics.
    pub measured: Measurement,
    /// The task's image metrics, with a value for each image that could be read.
    pub images: Vec<ImageValues>,
}

/// Measures the quantized network of each pair on the first images of the dataset, as many as `settings` says. All
/// networks see each batch in one pass. `look` is called with the images that could be read, part by part, and the outputs of the first
/// quantized network.
///
/// # Errors
/// More images cannot be read than `settings` accepts, or images, networks and task do not match.
pub fn evaluate_pairs(
    pairs: &[Pair<'_>],
    dataset: &dyn Dataset,
    task: &dyn Task,
    settings: &EvaluationRecipe,
    look: Look<'_>,
    progress: &dyn Progress,
) -> Result<Vec<PairMeasurement>> {
    let indices = indices(dataset, settings)?;
    let mut floats: Vec<&QuantModel> = Vec::new();
    let mut members = Vec::new();
    for pair in pairs {
        let place = floats.iter().position(|float| std::ptr::eq(*float, pair.float));
        let place = place.unwrap_or_else(|| {
            floats.push(pair.float);
            floats.len() - 1
        });
        members.push(Member { float: place, meter: task.meter()?, images: ImageValues::of_task(task) });
    }
    let quantized = pairs.iter().map(|pair| Network { model: pair.quantized, precision: Precision::Quantized });
    let floats = floats.into_iter().map(|model| Network { model, precision: Precision::Float });
    let networks: Vec<Network<'_>> = quantized.chain(floats).collect();
    let pass = Pass::new(dataset, settings, "evaluating against float", progress);
    let broken = pass.run(&networks, &indices, |part, outputs| {
        let (quantized, floats) = outputs.split_at(members.len());
        quantized.first().map_or(Ok(()), |outputs| look(part, outputs))?;
        for (member, outputs) in members.iter_mut().zip(quantized) {
            member.meter.update(outputs, &part.targets)?;
            let rows = task.image_values(outputs, &floats[member.float], &part.targets)?;
            ImageValues::extend(&mut member.images, rows);
        }
        Ok(())
    })?;
    let finish = |member: Member| {
        let Member { meter, images, .. } = member;
        let mut measured = Measurement { broken, ..meter.compute()? };
        for image in &images {
            if !measured.values.contains_key(&image.metric.key) {
                measured.insert(&image.metric, image.mean(), image.standard_error());
            }
        }
        Ok(PairMeasurement { measured, images })
    };
    members.into_iter().map(finish).collect()
}

/// One pair while it is measured.
struct Member {
    /// Number of its float network among the float networks.
    float: usize,
    meter: Box<dyn Meter>,
    images: Vec<ImageValues>,
}
