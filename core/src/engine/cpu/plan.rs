//! From a chain to buffers and plans: the size of chunks, memory layouts and borders.

use super::addition::{Addition, Projection};
use super::images::Images;
use super::stage::{Layer, Site};
use super::weight::Weight;
use crate::engine::chain::{Chain, ChainAddition};
use crate::error::{Error, Result};
use crate::graph::geometry::border;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::drop::Choices;
use qdrop_kernels::nhwc::stage::{groups_of_row, Sums};
use qdrop_kernels::nhwc::{border_of_gradient, Layout, Layouts};

/// Bytes that the buffers of one chunk should not exceed, so that they stay in a share of the last-level cache.
const CACHE: usize = 10 << 20;

/// The buffers and parameters that a chain computes with, for one chunk at a time.
pub struct Plan {
    /// The chain's input.
    pub x: Images,
    /// Its gradient, if it was asked for.
    pub gx: Option<Images>,
    pub layers: Vec<Layer>,
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
    /// The chain has no layer, or a tensor cannot be read.
    pub fn new(chain: Chain, [chunk, batch]: [usize; 2], input_gradient: bool) -> Result<Self> {
        if chain.layers.is_empty() {
            return Err(Error::message("a chain without layers cannot be computed"));
        }
        let values: Vec<[usize; 3]> = chain.layers.iter().map(|l| l.convolution.output()).collect();
        let shapes: Vec<Conv2dShape> = chain.layers.iter().map(|l| of_chunk(&l.convolution.shape, chunk)).collect();
        let borders = Borders::of(&chain, &shapes);
        let x_layout = layout(chunk, chain.input, borders.values[0]);
        let gx_layout = input_gradient.then(|| layout(chunk, chain.input, 0));
        let last = values.len() - 1;
        // Empty for the last layer, whose value nothing in the unit reads.
        let value = |i: usize| layout(if i < last { chunk } else { 0 }, values[i], borders.values[i + 1]);
        let gradient = |i: usize| layout(chunk, values[i], borders.gradients[i]);
        let mut layers: Vec<Layer> = Vec::new();
        for (i, layer) in chain.layers.into_iter().enumerate() {
            let (z, gz) = (layout(chunk, values[i], 0), gradient(i));
            // What is read, and its gradient.
            let source = |from: Option<usize>| match from {
                None => (x_layout, gx_layout),
                Some(from) => (value(from), Some(gradient(from))),
            };
            let (x, gx) = source(i.checked_sub(1));
            let mean = layer.reads_mean.then(|| {
                let pixel = layout(chunk, [x.channels, 1, 1], border(&shapes[i]));
                [Images::new(pixel), Images::new(Layout { border: 0, ..pixel })]
            });
            let layouts = match &mean {
                Some([mean, gradient]) => Layouts { x: mean.layout, z, gz, gx: gx.map(|_| gradient.layout) },
                None => Layouts { x, z, gz, gx },
            };
            let addition = |added: ChainAddition| -> Result<Addition> {
                let (x, gx) = source(added.from);
                let project = |projection| -> Result<Projection> {
                    let weight = Weight::new(projection, Layouts { x, z, gz, gx })?;
                    Ok(Projection { weight, z: Images::new(z), gx: gx.map(Images::new) })
                };
                let projection = added.projection.map(|projection| project(projection.of_batch(chunk)));
                Ok(Addition { from: added.from, projection: projection.transpose()? })
            };
            layers.push(Layer {
                mean,
                weight: Weight::new(layer.convolution.of_batch(chunk), layouts)?,
                added: layer.added.map(addition).transpose()?,
                site: Site::new(layer.stage, batch * size(values[i]))?,
                z: Images::new(z),
                a: Images::new(value(i)),
                gz: Images::new(gz),
                kept: vec![Choices::default(); chunk * z.height * groups_of_row(z)],
                rows: vec![Sums::default(); chunk * z.height],
                sums: Sums::default(),
            });
        }
        Ok(Self { x: Images::new(x_layout), gx: gx_layout.map(Images::new), layers })
    }
}

/// The number of images that pass through the unit together: a divisor of the batch, such that what they need at a time
/// stays in the cache. That is one block's buffers: the layers up to an addition.
pub fn chunk(chain: &Chain, batch: usize) -> usize {
    let ends = 2 * size(chain.input) + 2 * size(chain.output);
    let (mut largest, mut block) = (0, 0);
    for layer in &chain.layers {
        // For every layer its output, its stage's output and a gradient.
        block += 3 * size(layer.convolution.output());
        largest = largest.max(block);
        if layer.added.is_some() {
            block = 0;
        }
    }
    let each = ends + largest;
    let fits = (CACHE / size_of::<f32>() / each.max(1)).clamp(1, batch);
    (1..=fits).rev().find(|c| batch.is_multiple_of(*c)).unwrap_or(1)
}

/// Widths of the zero borders that convolutions read.
struct Borders {
    /// Of the unit's input and of each layer's value.
    values: Vec<usize>,
    /// Of the gradient of each layer's output.
    gradients: Vec<usize>,
}

impl Borders {
    fn of(chain: &Chain, shapes: &[Conv2dShape]) -> Self {
        let mut values = vec![0; shapes.len() + 1];
        let mut gradients: Vec<usize> = shapes.iter().map(border_of_gradient).collect();
        for (i, (layer, shape)) in chain.layers.iter().zip(shapes).enumerate() {
            if !layer.reads_mean {
                values[i] = values[i].max(border(shape));
            }
            let Some(added) = &layer.added else { continue };
            if let Some(projection) = &added.projection {
                let read = added.from.map_or(0, |from| from + 1);
                values[read] = values[read].max(border(&projection.shape));
                // The projection reads the gradient too.
                gradients[i] = gradients[i].max(border_of_gradient(&projection.shape));
            }
        }
        Self { values, gradients }
    }
}

fn of_chunk(shape: &Conv2dShape, chunk: usize) -> Conv2dShape {
    Conv2dShape { batch: chunk, ..*shape }
}
