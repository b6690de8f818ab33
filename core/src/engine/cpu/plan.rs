//! From a chain to buffers and plans: the size of chunks, memory layouts and borders.

use super::images::Images;
use super::operation::{Convolution, Operation};
use super::readers::Readers;
use super::stage::{Site, Stage};
use super::weight::Weight;
use crate::engine::chain::{Chain, ChainStep, Operation as Described};
use crate::error::{Error, Result};
use crate::graph::geometry::border;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::{border_of_gradient, Layout, Layouts};

/// Bytes that the buffers of one chunk should not exceed, so that they stay in a share of the last-level cache.
const CACHE: usize = 10 << 20;

/// The buffers and parameters that a chain computes with, for one chunk at a time. Value 0 is the chain's input, value
/// `i + 1` that of step `i`.
pub struct Plan {
    pub steps: Vec<Step>,
    /// All values. That of the last step, which nothing in the unit reads, is empty.
    pub values: Vec<Images>,
    /// The gradients of values where they are needed and [own](Readers::is_own): first with respect to the value, then, for
    /// steps with a stage, with respect to what the stage reads.
    pub gradients: Vec<Option<Images>>,
    pub readers: Readers,
}

/// An operation of the chain with what follows it.
pub struct Step {
    /// The values that it reads.
    pub reads: Vec<usize>,
    pub operation: Operation,
    /// The operation's value, if a stage reads it. Otherwise that is the step's value.
    pub z: Option<Images>,
    /// The stage, which the last step always has, and sums have too.
    pub stage: Option<Stage>,
}

/// Layout of images (C, H, W) with a border.
fn layout(batch: usize, [channels, height, width]: [usize; 3], border: usize) -> Layout {
    Layout { batch, height, width, channels, border }
}

/// Elements of an image.
fn size(image: [usize; 3]) -> usize {
    image.iter().product()
}

impl Plan {
    /// Makes the plan of a chain for chunks and batches of these sizes.
    ///
    /// # Errors
    /// The chain has no step, or a tensor cannot be read.
    pub fn new(chain: Chain, [chunk, batch]: [usize; 2], input_gradient: bool) -> Result<Self> {
        let Some(last) = chain.steps.len().checked_sub(1) else {
            return Err(Error::message("a chain without steps cannot be computed"));
        };
        let readers = Readers::of(&chain, input_gradient);
        let borders = Borders::of(&chain, &readers);
        let sizes: Vec<[usize; 3]> =
            std::iter::once(chain.input).chain(chain.steps.iter().map(|step| step.size)).collect();
        // Empty for the last step.
        let value = |v: usize| layout(if v <= last { chunk } else { 0 }, sizes[v], borders.values[v]);
        let gradient = |v: usize| layout(chunk, sizes[v], borders.gradients[readers.gradient[v]]);
        let mut steps = Vec::new();
        for (i, step) in chain.steps.into_iter().enumerate() {
            let ChainStep { reads, operation, size: image, stage, .. } = step;
            let sum = matches!(operation, Described::Sum);
            // A convolution writes no border.
            let moved = matches!(operation, Described::Convolution(_)) && borders.values[i + 1] > 0;
            let staged = i == last || sum || moved || !stage.is_empty();
            let z = if staged { layout(chunk, image, 0) } else { value(i + 1) };
            let operation = operation.try_map(
                |convolution| -> Result<Convolution> {
                    let gx = readers.needed[reads[0]].then(|| gradient(reads[0]));
                    let first = readers.of[reads[0]].first() == Some(&(i, 0));
                    let layouts = Layouts { x: value(reads[0]), z, gz: gradient(i + 1), gx };
                    let weight = Box::new(Weight::new(convolution.of_batch(chunk), layouts)?);
                    Ok(Convolution { weight, room: gx.filter(|_| !first).map(Images::new) })
                },
                Ok,
            )?;
            let operation = Operation::new(operation, chunk * size(image));
            let site = staged.then(|| Site::new(stage, batch * size(image))).transpose()?;
            steps.push(Step {
                reads,
                operation,
                z: (staged && !sum).then(|| Images::new(z)),
                stage: site.map(|site| Stage::new(site, z)),
            });
        }
        let needed = |v: usize| readers.needed[v] && readers.is_own(v);
        Ok(Self {
            values: (0..sizes.len()).map(|v| Images::new(value(v))).collect(),
            gradients: (0..sizes.len()).map(|v| needed(v).then(|| Images::new(gradient(v)))).collect(),
            steps,
            readers,
        })
    }

    /// The layout of a chunk of the output.
    pub fn end(&self) -> Layout {
        let last = self.values.last().map_or(self.values[0].layout, |value| value.layout);
        Layout { batch: self.values[0].layout.batch, border: 0, ..last }
    }
}

/// The number of images that pass through the unit together: a divisor of the batch, such that what they need at a time
/// stays in the cache. That is one block's buffers: the steps up to an addition.
pub fn chunk(chain: &Chain, batch: usize) -> usize {
    let readers = Readers::of(chain, false);
    let ends = 2 * size(chain.input) + 2 * size(chain.output);
    let (mut largest, mut block) = (0, 0);
    for (i, step) in chain.steps.iter().enumerate() {
        // For every operation its value, its stage's value and a gradient.
        if readers.is_own(i + 1) && !matches!(step.operation, Described::Mean) {
            block += 3 * size(step.size);
        }
        largest = largest.max(block);
        if matches!(step.operation, Described::Sum) && step.reads.len() == 2 {
            block = 0;
        }
    }
    let each = ends + largest;
    let fits = (CACHE / size_of::<f32>() / each.max(1)).clamp(1, batch);
    (1..=fits).rev().find(|c| batch.is_multiple_of(*c)).unwrap_or(1)
}

/// Widths of the zero borders that convolutions read.
struct Borders {
    /// Of each value.
    values: Vec<usize>,
    /// Of the gradient of each value, if it is its own.
    gradients: Vec<usize>,
}

impl Borders {
    fn of(chain: &Chain, readers: &Readers) -> Self {
        let mut values = vec![0; chain.steps.len() + 1];
        let mut gradients = values.clone();
        for (i, step) in chain.steps.iter().enumerate() {
            let Described::Convolution(convolution) = &step.operation else { continue };
            let shape: &Conv2dShape = &convolution.shape;
            let (read, written) = (step.reads[0], readers.gradient[i + 1]);
            values[read] = values[read].max(border(shape));
            gradients[written] = gradients[written].max(border_of_gradient(shape));
        }
        Self { values, gradients }
    }
}
