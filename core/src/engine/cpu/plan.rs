//! From a chain to buffers and plans: the size of chunks, memory layouts and borders.

use super::images::Images;
use super::samples::Samples;
use super::shortcut::Shortcut;
use super::stage::{Layer, Site};
use super::weight::Weight;
use crate::engine::chain::{Chain, ChainShortcut};
use crate::engine::samples::UnitSamples;
use crate::error::Result;
use crate::graph::geometry::border;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::drop::Choices;
use qdrop_kernels::nhwc::stage::{groups_of_row, Sums};
use qdrop_kernels::nhwc::{border_of_gradient, Layout, Layouts};

/// Bytes that the buffers of one chunk should not exceed, so that they stay in a share of the last-level cache.
const CACHE: usize = 10 << 20;

/// The buffers and parameters that a unit computes with.
pub struct Plan {
    /// Images of one chunk, which pass through the unit together.
    pub chunk: usize,
    pub samples: Samples,
    /// The unit's input.
    pub x: Images,
    pub layers: Vec<Layer>,
    pub shortcut: Shortcut,
}

/// Layout of images (C, H, W) with a border.
fn layout(batch: usize, [channels, height, width]: [usize; 3], border: usize) -> Layout {
    Layout { batch, height, width, channels, border }
}

impl Plan {
    /// Makes the plan of a chain for batches of this size.
    pub fn new(chain: Chain, samples: &UnitSamples, batch: usize) -> Result<Self> {
        let size = |image: [usize; 3]| image.iter().product::<usize>();
        let values: Vec<[usize; 3]> = chain.layers.iter().map(|l| l.convolution.output()).collect();
        // Elements per image: input and target, and for every layer its output, its stage's output and a gradient.
        let each = 2 * size(chain.input) + 2 * size(chain.output) + values.iter().map(|v| 3 * size(*v)).sum::<usize>();
        let fits = (CACHE / size_of::<f32>() / each.max(1)).clamp(1, batch);
        let chunk = (1..=fits).rev().find(|c| batch.is_multiple_of(*c)).unwrap_or(1);

        let shapes: Vec<Conv2dShape> = chain.layers.iter().map(|l| of_chunk(&l.convolution.shape, chunk)).collect();
        let projection = match &chain.shortcut {
            ChainShortcut::Projection(projection) => Some(of_chunk(&projection.shape, chunk)),
            ChainShortcut::None | ChainShortcut::Identity => None,
        };
        let x_border = shapes.first().into_iter().chain(&projection).map(border).max().unwrap_or(0);
        let x_layout = layout(chunk, chain.input, x_border);
        let mut layers: Vec<Layer> = Vec::new();
        let mut x = x_layout;
        for (i, layer) in chain.layers.into_iter().enumerate() {
            let z = layout(chunk, values[i], 0);
            // A projection reads the last layer's gradient too.
            let projection = projection.as_ref().filter(|_| i + 1 == values.len()).map_or(0, border_of_gradient);
            let gz = layout(chunk, values[i], projection.max(border_of_gradient(&shapes[i])));
            let gx = layers.last().map(|l| l.gz.layout);
            let a = match shapes.get(i + 1) {
                Some(next) => layout(chunk, values[i], border(next)),
                None => layout(0, values[i], 0),
            };
            layers.push(Layer {
                weight: Weight::new(layer.convolution.of_batch(chunk), Layouts { x, z, gz, gx })?,
                site: Site::new(layer.stage, batch * size(values[i]))?,
                z: Images::new(z),
                a: Images::new(a),
                gz: Images::new(gz),
                kept: vec![Choices::default(); chunk * z.height * groups_of_row(z)],
                rows: vec![Sums::default(); chunk * z.height],
                sums: Sums::default(),
            });
            x = a;
        }
        let last = layers.last().map_or(x_layout, |l| l.gz.layout);
        let shortcut = match chain.shortcut {
            ChainShortcut::None => Shortcut::None,
            ChainShortcut::Identity => Shortcut::Identity,
            ChainShortcut::Projection(projection) => {
                let z = layout(chunk, projection.output(), 0);
                let layouts = Layouts { x: x_layout, z, gz: last, gx: None };
                let weight = Weight::new(projection.of_batch(chunk), layouts)?;
                Shortcut::Projection(Box::new(weight), Images::new(z))
            }
        };
        let samples = Samples::new(samples, x_layout, layout(chunk, chain.output, 0))?;
        Ok(Self { chunk, samples, x: Images::new(x_layout), layers, shortcut })
    }
}

fn of_chunk(shape: &Conv2dShape, chunk: usize) -> Conv2dShape {
    Conv2dShape { batch: chunk, ..*shape }
}
