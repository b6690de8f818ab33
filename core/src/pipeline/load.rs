//! Loads images in parallel, ahead of their use.

use super::broken::BrokenImages;
use crate::cache::{CachedValues, CACHED_BATCH};
use crate::dataset::{Dataset, Sample};
use crate::error::{Error, Result, TensorContext};
use crate::ops::host_values;
use crate::progress::{Event, Progress};
use crate::random::{permutation, stream, Purpose};
use crate::recipe::CalibrationRecipe;
use crate::run_directory::Fingerprint;
use crate::target::Target;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::sync::mpsc::sync_channel;
use std::sync::Arc;

/// Images and targets of one batch.
pub struct Batch {
    /// Images (N, C, H, W). N is 0 if none of the batch could be read.
    pub images: Tensor,
    /// Their targets.
    pub targets: Vec<Target>,
    /// Error messages of images that could not be read. These images are not part of the batch.
    pub broken: Vec<String>,
}

/// Loads the images with the given indices. An image that cannot be read is left out and reported.
///
/// # Errors
/// An image has another size than `input`, a target is not of the kind that the dataset announces, or the dataset
/// panicked.
pub fn load_batch(dataset: &dyn Dataset, indices: &[usize], input: &[usize], device: &Device) -> Result<Batch> {
    let samples: Vec<Result<Sample>> = indices.par_iter().map(|i| dataset.sample(*i)).collect();
    let size: usize = input.iter().product();
    let mut pixels = Vec::with_capacity(indices.len() * size);
    let promised = dataset.targets();
    let (mut targets, mut broken) = (Vec::new(), Vec::new());
    for sample in samples {
        match sample {
            Ok(sample) if sample.image.len() == size => {
                // Calibration reads no targets; where one is needed and missing, the task reports it.
                if sample.target != Target::Unknown && !promised.contains(&sample.target) {
                    return Err(Error::message(format!(
                        "the dataset promises {promised} with each image, but gave {}; this is a defect of the dataset",
                        sample.target
                    )));
                }
                pixels.extend_from_slice(&sample.image);
                targets.push(sample.target);
            }
            Ok(sample) => {
                return Err(Error::message(format!(
                    "the dataset gave an image of {} values, but the network takes {input:?}; fix the dataset's size parameters",
                    sample.image.len()
                )))
            }
            Err(defect @ Error::Panicked { .. }) => return Err(defect),
            Err(e) => broken.push(e.to_string()),
        }
    }
    let dims: Vec<usize> = std::iter::once(targets.len()).chain(input.iter().copied()).collect();
    let images = Tensor::from_vec(pixels, dims, device).doing("building a batch of images")?;
    Ok(Batch { images, targets, broken })
}

/// Batches that are loaded while an earlier one is in use. A small number bounds the memory.
const AHEAD: usize = 1;

/// Loads batch after batch on all cores, ahead of `consume`, which receives them in order.
///
/// # Errors
/// [`load_batch`] or `consume` fails; loading stops then.
pub fn load_ahead<'a>(
    dataset: &dyn Dataset,
    batches: impl Iterator<Item = &'a [usize]> + Send,
    input: &[usize],
    device: &Device,
    mut consume: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        // This closure owns the receiver, so that an early return drops it and the loading thread ends.
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for indices in batches {
                if sender.send(load_batch(dataset, indices, input, device)).is_err() {
                    break;
                }
            }
        });
        receiver.into_iter().try_for_each(|batch| consume(batch?))
    })
}

/// The images that a network is calibrated with.
pub struct CalibrationSet {
    /// The images.
    pub images: Arc<CachedValues>,
    /// SHA-256 of their pixels in order.
    pub fingerprint: String,
}

/// The warning that the calibration set has fewer images than the recipe asks for.
pub fn too_few_images(images: usize, asked: usize) -> String {
    format!("the calibration set has {images} images, the recipe asks for {asked}; using all")
}

/// Loads the recipe's number of images, chosen at random by the seed, or all images if there are fewer. Images that
/// cannot be read are left out and reported; which ones are chosen does not depend on them.
///
/// # Errors
/// More images cannot be read than the recipe accepts, or the cache cannot be written.
pub fn calibration_images(
    dataset: &dyn Dataset,
    settings: &CalibrationRecipe,
    seed: u64,
    input: &[usize],
    cache: CachedValues,
    progress: &dyn Progress,
) -> Result<CalibrationSet> {
    let count = settings.images;
    let mut order = permutation(stream(seed, Purpose::Calibration, 0, 0), dataset.len());
    if order.len() < count {
        progress.event(Event::Warning(too_few_images(order.len(), count)));
    }
    order.truncate(count);
    progress.event(Event::Started { stage: "calibration images", total: order.len() });
    let mut images = Collector { cache, pending: Vec::new(), fingerprint: Fingerprint::default() };
    let (mut done, mut broken) = (0, BrokenImages::default());
    load_ahead(dataset, order.chunks(64), input, &Device::Cpu, |batch| {
        done += batch.targets.len() + batch.broken.len();
        broken.add(&batch.broken);
        for message in batch.broken {
            progress.event(Event::Warning(format!("skipped: {message}")));
        }
        if !batch.targets.is_empty() {
            images.add(batch.images)?;
        }
        progress.event(Event::Advanced(done));
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    })?;
    progress.event(Event::Finished);
    broken.check("calibration", order.len(), settings.max_broken_percent)?;
    if broken.count() > 0 {
        let message = format!("{} of {} calibration images could not be read", broken.count(), order.len());
        progress.event(Event::Warning(message));
    }
    images.finish()
}

/// Puts images into the cache in parts of equal size. The batches that it gets may differ in size, because images
/// that cannot be read are missing in them.
struct Collector {
    cache: CachedValues,
    pending: Vec<Tensor>,
    fingerprint: Fingerprint,
}

impl Collector {
    /// Adds images on the host, where their fingerprint is taken.
    fn add(&mut self, images: Tensor) -> Result<()> {
        host_values(&images, |values| self.fingerprint.update(values))?;
        self.pending.push(images.to_device(self.cache.device())?);
        let all = Tensor::cat(&self.pending, 0).doing("collecting the calibration images")?;
        let (count, mut start) = (all.dim(0)?, 0);
        while count - start >= CACHED_BATCH {
            // A copy, because a part must not keep the images around it alive.
            self.cache.push(&all.narrow(0, start, CACHED_BATCH)?.force_contiguous()?)?;
            start += CACHED_BATCH;
        }
        self.pending.clear();
        if start < count {
            self.pending.push(all.narrow(0, start, count - start)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<CalibrationSet> {
        if let Some(rest) = self.pending.pop() {
            self.cache.push(&rest.force_contiguous()?)?;
        }
        Ok(CalibrationSet { images: Arc::new(self.cache), fingerprint: self.fingerprint.finish() })
    }
}
