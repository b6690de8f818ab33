//! From a chain to buffers and plans: the size of chunks, memory layouts and borders.

use super::images::Images;
use super::operation::{Convolution, Operation};
use super::readers::Readers;
use super::stage::{Site, Stage};
use super::weight::Weight;
use crate::engine::chain::{Chain, ChainSizes, ChainStep, Operation as Described};
use crate::error::{Error, Result};
use crate::graph::geometry::border;
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
        let reads: Vec<usize> = chain.steps.iter().map(|step| step.reads[0]).collect();
        let layouts = PlanLayouts::of(&chain.sizes(), &reads, &readers, chunk);
        let mut steps = Vec::new();
        for (i, step) in chain.steps.into_iter().enumerate() {
            let ChainStep { reads, operation, size: image, stage, .. } = step;
            let sum = matches!(operation, Described::Sum);
            // A convolution writes no border.
            let moved = matches!(operation, Described::Convolution(_)) && layouts.values[i + 1].border > 0;
            let staged = i == last || sum || moved || !stage.is_empty();
            let z = layouts.read_by_stage(i, staged);
            let operation = operation.try_map(
                |convolution| -> Result<Convolution> {
                    let own = layouts.of_convolution(i, reads[0], z, &readers);
                    let first = readers.of[reads[0]].first() == Some(&(i, 0));
                    let weight = Box::new(Weight::new(convolution.of_batch(chunk), own)?);
                    Ok(Convolution { weight, room: own.gx.filter(|_| !first).map(Images::new) })
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
        let gradients = layouts.gradients.iter().enumerate();
        Ok(Self {
            values: layouts.values.iter().map(|layout| Images::new(*layout)).collect(),
            gradients: gradients.map(|(v, layout)| needed(v).then(|| Images::new(*layout))).collect(),
            steps,
            readers,
        })
    }

    /// Goes over to images of other sizes. What is learned stays, and gradients of an unfinished step are lost.
    pub fn reshape(&mut self, sizes: &ChainSizes, batch: usize) {
        let is = |i: usize, kind: fn(&Operation) -> bool| kind(&self.steps[i].operation);
        let ends_block = |i: usize| is(i, Operation::is_sum) && self.steps[i].reads.len() == 2;
        let chunk = chunk_of(sizes, &self.readers, (&ends_block, &|i| is(i, Operation::is_mean)), batch);
        let reads: Vec<usize> = self.steps.iter().map(|step| step.reads[0]).collect();
        let layouts = PlanLayouts::of(sizes, &reads, &self.readers, chunk);
        for (i, step) in self.steps.iter_mut().enumerate() {
            let own = &sizes.steps[i];
            let z = layouts.read_by_stage(i, step.stage.is_some());
            step.operation.reshape(own, chunk, &layouts.of_convolution(i, step.reads[0], z, &self.readers));
            step.z.iter_mut().for_each(|images| images.reshape(z));
            step.stage.iter_mut().for_each(|stage| stage.reshape(z, batch * size(own.size)));
        }
        self.values.iter_mut().zip(&layouts.values).for_each(|(images, layout)| images.reshape(*layout));
        let gradients = self.gradients.iter_mut().zip(&layouts.gradients);
        gradients.for_each(|(images, layout)| images.iter_mut().for_each(|images| images.reshape(*layout)));
    }

    /// Images of a chunk.
    pub fn chunk(&self) -> usize {
        self.values[0].layout.batch
    }

    /// The layout of a chunk of the output.
    pub fn end(&self) -> Layout {
        let last = self.values.last().map_or(self.values[0].layout, |value| value.layout);
        Layout { batch: self.values[0].layout.batch, border: 0, ..last }
    }
}

/// The number of images that pass through a chain together, see [`chunk_of`].
pub fn chunk(chain: &Chain, batch: usize) -> usize {
    let is = |i: usize, kind: fn(&ChainStep) -> bool| kind(&chain.steps[i]);
    let ends_block = |i: usize| is(i, |step| matches!(step.operation, Described::Sum) && step.reads.len() == 2);
    let is_mean = |i: usize| is(i, |step| matches!(step.operation, Described::Mean));
    chunk_of(&chain.sizes(), &Readers::of(chain, false), (&ends_block, &is_mean), batch)
}

/// The number of images that pass through the unit together: a divisor of the batch, such that what they need at a time
/// stays in the cache. That is one block's buffers: the steps up to an addition. Means of a few numbers do not count.
fn chunk_of(
    sizes: &ChainSizes,
    readers: &Readers,
    (ends_block, is_mean): (&dyn Fn(usize) -> bool, &dyn Fn(usize) -> bool),
    batch: usize,
) -> usize {
    let ends = 2 * size(sizes.input) + 2 * size(sizes.of_value(sizes.steps.len()));
    let (mut largest, mut block) = (0, 0);
    for (i, step) in sizes.steps.iter().enumerate() {
        // For every operation its value, its stage's value and a gradient.
        if readers.is_own(i + 1) && !is_mean(i) {
            block += 3 * size(step.size);
        }
        largest = largest.max(block);
        if ends_block(i) {
            block = 0;
        }
    }
    let each = ends + largest;
    let fits = (CACHE / size_of::<f32>() / each.max(1)).clamp(1, batch);
    (1..=fits).rev().find(|c| batch.is_multiple_of(*c)).unwrap_or(1)
}

/// The layouts of all values and gradients, for chunks of images of one size.
struct PlanLayouts {
    /// Of each value. That of the last step is empty.
    values: Vec<Layout>,
    /// Of the gradient of each value.
    gradients: Vec<Layout>,
    /// Of each step's value, without border.
    plain: Vec<Layout>,
}

impl PlanLayouts {
    /// `reads` is the first value that each step reads.
    fn of(sizes: &ChainSizes, reads: &[usize], readers: &Readers, chunk: usize) -> Self {
        let count = sizes.steps.len() + 1;
        // Widths of the zero borders that convolutions read: of values, and of gradients that have a place of their own.
        let mut borders = [vec![0; count], vec![0; count]];
        for (i, (step, read)) in sizes.steps.iter().zip(reads).enumerate() {
            let Some(shape) = &step.convolution else { continue };
            let written = readers.gradient[i + 1];
            borders[0][*read] = borders[0][*read].max(border(shape));
            borders[1][written] = borders[1][written].max(border_of_gradient(shape));
        }
        let value = |v: usize| layout(if v + 1 < count { chunk } else { 0 }, sizes.of_value(v), borders[0][v]);
        let gradient = |v: usize| layout(chunk, sizes.of_value(v), borders[1][readers.gradient[v]]);
        Self {
            values: (0..count).map(value).collect(),
            gradients: (0..count).map(gradient).collect(),
            plain: sizes.steps.iter().map(|step| layout(chunk, step.size, 0)).collect(),
        }
    }

    /// The layout of what an operation writes: what its stage reads, or its value.
    fn read_by_stage(&self, step: usize, staged: bool) -> Layout {
        if staged {
            self.plain[step]
        } else {
            self.values[step + 1]
        }
    }

    /// What the convolution of a step reads and writes.
    fn of_convolution(&self, step: usize, read: usize, z: Layout, readers: &Readers) -> Layouts {
        let gx = readers.needed[read].then(|| self.gradients[read]);
        Layouts { x: self.values[read], z, gz: self.gradients[step + 1], gx }
    }
}
