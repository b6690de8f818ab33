//! Loads images in parallel, ahead of their use.

use super::broken::BrokenImages;
use crate::cache::{CachedValues, CACHED_BATCH};
use crate::dataset::{Dataset, Sample};
use crate::error::{Error, Result, TensorContext};
use crate::head::ImageSize;
use crate::ops::host_values;
use crate::progress::{Event, Progress};
use crate::random::{permutation, stream, Purpose};
use crate::recipe::CalibrationRecipe;
use crate::run_directory::Fingerprint;
use crate::target::Target;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::sync::Arc;

/// Images that were loaded together.
pub struct Batch {
    /// Those that could be read, in their order. Only where images differ in size are there several parts.
    pub parts: Vec<Part>,
    /// Error messages of images that could not be read. These images are not part of the batch.
    pub broken: Vec<String>,
}

impl Batch {
    /// Number of images, those that could not be read included.
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| part.targets.len()).sum::<usize>() + self.broken.len()
    }
}

/// Neighbouring images of equal size with their targets.
pub struct Part {
    /// Images (N, C, H, W), one at least.
    pub images: Tensor,
    /// Their numbers in the dataset.
    pub indices: Vec<usize>,
    /// Their sizes.
    pub sizes: Vec<ImageSize>,
    /// Their targets.
    pub targets: Vec<Target>,
}

/// Loads the images with the given indices. An image that cannot be read is left out and reported.
///
/// # Errors
/// An image has another size than `input` and does not say its own, a target is not of the kind that the dataset announces, or
/// the dataset panicked.
pub fn load_batch(dataset: &dyn Dataset, indices: &[usize], input: &[usize], device: &Device) -> Result<Batch> {
    let samples: Vec<Result<Sample>> = indices.par_iter().map(|i| dataset.sample(*i)).collect();
    let promised = dataset.targets();
    let own = ImageSize::whole([1, 2].map(|axis| input.get(axis).copied().unwrap_or(1)));
    let channels = input.first().copied().unwrap_or(1);
    let (mut images, mut broken) = (Vec::new(), Vec::new());
    for (index, sample) in indices.iter().zip(samples) {
        let Sample { image, target, size } = match sample {
            Ok(sample) => sample,
            Err(defect @ Error::Panicked { .. }) => return Err(defect),
            Err(e) => {
                broken.push(e.to_string());
                continue;
            }
        };
        let wanted = size.map_or_else(|| input.iter().product(), |s| channels * s.tensor[0] * s.tensor[1]);
        if image.len() != wanted {
            return Err(Error::message(match size {
                None => format!(
                    "the dataset gave an image of {} values, but the network takes {input:?}; fix the dataset's size parameters",
                    image.len()
                ),
                Some(size) => format!(
                    "the dataset gave an image of {} values and says that it has {channels} channels of {:?} pixels; this is a \
                     defect of the dataset",
                    image.len(),
                    size.tensor
                ),
            }));
        }
        // Calibration reads no targets; where one is needed and missing, the task reports it.
        if target != Target::Unknown && !promised.contains(&target) {
            return Err(Error::message(format!(
                "the dataset promises {promised} with each image, but gave {target}; this is a defect of the dataset"
            )));
        }
        images.push((*index, image, size.unwrap_or(own), target));
    }
    let parts = images.chunk_by(|a, b| a.2.tensor == b.2.tensor).map(|images| {
        let [height, width] = images[0].2.tensor;
        let shape = if input.len() == 3 { &[channels, height, width][..] } else { input };
        let mut pixels = Vec::with_capacity(images.len() * shape.iter().product::<usize>());
        images.iter().for_each(|(_, image, ..)| pixels.extend_from_slice(image));
        let tensor = Tensor::from_vec(pixels, [&[images.len()], shape].concat(), device);
        Ok(Part {
            images: tensor.doing("building a batch of images")?,
            indices: images.iter().map(|(index, ..)| *index).collect(),
            sizes: images.iter().map(|(_, _, size, _)| *size).collect(),
            targets: images.iter().map(|(.., target)| target.clone()).collect(),
        })
    });
    Ok(Batch { parts: parts.collect::<Result<_>>()?, broken })
}

/// Batches that are loaded while an earlier one is in use. A small number bounds the memory.
const AHEAD: usize = 1;

/// Loads batch after batch on all cores, ahead of `consume`, which receives them in order, until it says that it has enough.
///
/// # Errors
/// [`load_batch`] or `consume` fails; loading stops then.
pub fn load_ahead<'a>(
    dataset: &dyn Dataset,
    batches: impl Iterator<Item = &'a [usize]> + Send,
    input: &[usize],
    device: &Device,
    mut consume: impl FnMut(Batch) -> Result<ControlFlow<()>>,
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
        for batch in receiver {
            if consume(batch?)?.is_break() {
                break;
            }
        }
        Ok(())
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
/// cannot be read are left out and reported; which ones are chosen does not depend on them. Where images form groups, images
/// are drawn until there are enough groups, and those left alone at the end are not used.
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
    if settings.group.is_none() {
        order.truncate(count);
    }
    let wanted = count.min(order.len());
    progress.event(Event::Started { stage: "calibration images", total: wanted });
    let mut images = Collector::new(cache, settings.group);
    let (mut done, mut broken) = (0, BrokenImages::default());
    // Few images that form groups are drawn one after the other, not more than are wanted.
    let together = if settings.group.is_some() { wanted.clamp(1, 64) } else { 64 };
    load_ahead(dataset, order.chunks(together), input, &Device::Cpu, |batch| {
        done += batch.count();
        broken.add(&batch.broken);
        for message in batch.broken {
            progress.event(Event::Warning(format!("skipped: {message}")));
        }
        for part in batch.parts {
            images.add(part)?;
        }
        progress.event(Event::Advanced(done.min(wanted)));
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let enough = settings.group.is_some() && images.cache.samples() >= wanted;
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    progress.event(Event::Finished);
    broken.check("calibration", done, settings.max_broken_percent)?;
    if broken.count() > 0 {
        let message = format!("{} of {done} calibration images could not be read", broken.count());
        progress.event(Event::Warning(message));
    }
    images.finish()
}

/// Puts images into the cache in parts of equal size. The batches that it gets may differ in size, because images
/// that cannot be read are missing in them.
struct Collector {
    cache: CachedValues,
    fingerprint: Fingerprint,
    waiting: Waiting,
}

/// Images that are not in the cache yet.
enum Waiting {
    /// Too few for a part.
    Any(Vec<Tensor>),
    /// Too few for a group: upright ones, and wide ones.
    Grouped([Vec<Tensor>; 2], usize),
}

impl Collector {
    fn new(cache: CachedValues, group: Option<usize>) -> Self {
        let (cache, waiting) = match group {
            None => (cache, Waiting::Any(Vec::new())),
            Some(size) => (cache.in_groups(size), Waiting::Grouped(Default::default(), size)),
        };
        Self { cache, fingerprint: Fingerprint::default(), waiting }
    }

    /// Adds images on the host, where their fingerprint is taken.
    fn add(&mut self, part: Part) -> Result<()> {
        let Self { cache, fingerprint, waiting } = self;
        match waiting {
            Waiting::Any(pending) => {
                host_values(&part.images, |values| fingerprint.update(values))?;
                let size = &part.images.dims()[1..];
                let known = pending.first().map(|images| images.dims()[1..].to_vec());
                let known = known.or_else(|| Some(cache.shape_of(0).ok()?.to_vec()));
                if let Some(known) = known.filter(|known| known != size) {
                    let message = format!(
                        "images have the shapes {known:?} and {size:?}; set how many of one orientation form a group"
                    );
                    return Err(Error::setting("calibration.group", message));
                }
                pending.push(part.images.to_device(cache.device())?);
                let all = Tensor::cat(&*pending, 0).doing("collecting the calibration images")?;
                let (count, mut start) = (all.dim(0)?, 0);
                while count - start >= CACHED_BATCH {
                    // A copy, because a part must not keep the images around it alive.
                    cache.push(&all.narrow(0, start, CACHED_BATCH)?.force_contiguous()?)?;
                    start += CACHED_BATCH;
                }
                pending.clear();
                if start < count {
                    pending.push(all.narrow(0, start, count - start)?);
                }
            }
            Waiting::Grouped(orientations, group) => {
                for (i, size) in part.sizes.iter().enumerate() {
                    let [height, width] = size.resized;
                    let pending = &mut orientations[usize::from(width > height)];
                    pending.push(part.images.narrow(0, i, 1)?);
                    if pending.len() == *group {
                        let images = padded(&std::mem::take(pending))?;
                        host_values(&images, |values| fingerprint.update(values))?;
                        cache.push(&images.to_device(cache.device())?)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<CalibrationSet> {
        match &mut self.waiting {
            Waiting::Any(pending) => {
                if let Some(rest) = pending.pop() {
                    self.cache.push(&rest.force_contiguous()?)?;
                }
            }
            Waiting::Grouped(orientations, group) if self.cache.samples() == 0 => {
                let [upright, wide] = orientations.each_ref().map(Vec::len);
                let message = format!(
                    "{group} images of one orientation form a group, but there are only {upright} upright and {wide} wide ones"
                );
                return Err(Error::setting("calibration.group", message));
            }
            Waiting::Grouped(..) => {}
        }
        Ok(CalibrationSet { images: Arc::new(self.cache), fingerprint: self.fingerprint.finish() })
    }
}

/// Images (1, C, H, W) as one batch: padded with zeros on the right and below to the size of the largest.
fn padded(images: &[Tensor]) -> Result<Tensor> {
    let largest = |axis: usize| images.iter().map(|image| image.dims()[axis]).max().unwrap_or(0);
    let (height, width) = (largest(2), largest(3));
    let padded = images.iter().map(|image| {
        let down = image.pad_with_zeros(2, 0, height - image.dims()[2])?;
        down.pad_with_zeros(3, 0, width - image.dims()[3])
    });
    Tensor::cat(&padded.collect::<candle_core::Result<Vec<_>>>()?, 0).doing("collecting the calibration images")
}
