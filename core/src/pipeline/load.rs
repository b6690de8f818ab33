//! Loading images in parallel.

use crate::dataset::{Dataset, Sample};
use crate::error::{Error, Result, TensorContext};
use crate::pipeline::{Event, Progress};
use crate::random::{permutation, stream, Purpose};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Images and labels of one batch.
pub struct Batch {
    /// Images (N, C, H, W).
    pub images: Tensor,
    /// Their labels.
    pub labels: Vec<usize>,
    /// Messages about images that could not be read; they are not in the batch.
    pub broken: Vec<String>,
}

/// Loads the images with the given indices. An image that cannot be read is left out and reported.
///
/// # Errors
/// An image has another size than `input`, or nothing could be read.
pub fn load_batch(dataset: &dyn Dataset, indices: &[usize], input: &[usize], device: &Device) -> Result<Batch> {
    let samples: Vec<Result<Sample>> = indices.par_iter().map(|i| dataset.sample(*i)).collect();
    let size: usize = input.iter().product();
    let mut pixels = Vec::with_capacity(indices.len() * size);
    let (mut labels, mut broken) = (Vec::new(), Vec::new());
    for sample in samples {
        match sample {
            Ok(sample) if sample.image.len() == size => {
                pixels.extend_from_slice(&sample.image);
                labels.push(sample.label);
            }
            Ok(sample) => {
                return Err(Error::message(format!(
                    "the dataset gave an image of {} values, but the network takes {input:?}; fix the dataset's size parameters",
                    sample.image.len()
                )))
            }
            Err(e) => broken.push(e.to_string()),
        }
    }
    if labels.is_empty() {
        let first = broken.first().cloned().unwrap_or_else(|| "no index was given".into());
        return Err(Error::message(format!("no image of a batch could be read: {first}")));
    }
    let dims: Vec<usize> = std::iter::once(labels.len()).chain(input.iter().copied()).collect();
    let images = Tensor::from_vec(pixels, dims, device).doing("building a batch of images")?;
    Ok(Batch { images, labels, broken })
}

/// A seeded choice of `count` images of the dataset, or all of them when there are fewer.
///
/// # Errors
/// No image can be read.
pub fn calibration_images(
    dataset: &dyn Dataset,
    count: usize,
    seed: u64,
    input: &[usize],
    device: &Device,
    progress: &dyn Progress,
) -> Result<Tensor> {
    let mut order = permutation(stream(seed, Purpose::Calibration, 0, 0), dataset.len());
    if order.len() < count {
        let message = format!("the calibration set has {} images, the recipe asks for {count}; using all", order.len());
        progress.event(Event::Warning(message));
    }
    order.truncate(count);
    progress.event(Event::Started { stage: "calibration images", total: order.len() });
    let mut parts = Vec::new();
    let (mut done, mut broken) = (0, 0);
    for indices in order.chunks(64) {
        let batch = load_batch(dataset, indices, input, device)?;
        broken += batch.broken.len();
        for message in batch.broken {
            progress.event(Event::Warning(format!("skipped: {message}")));
        }
        parts.push(batch.images);
        done += indices.len();
        progress.event(Event::Advanced(done));
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
    }
    progress.event(Event::Finished);
    if broken > 0 {
        let message = format!("{broken} of {} calibration images could not be read", order.len());
        progress.event(Event::Warning(message));
    }
    Tensor::cat(&parts, 0).doing("collecting the calibration images")
}
