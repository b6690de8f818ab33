//! The convolution and the gradient of its input, block of tiles by block of tiles.

use super::super::shared::Shared;
use super::super::{Layout, PackedShape, RowPlan};
use super::transform::{FromTiles, ToTiles, Transform};
use super::{scratch, slice, tile_layout, transformed_len, transformed_shape, Tiles, POSITIONS, SLICE};
use crate::conv::Conv2dShape;
use pulp::Arch;
use rayon::prelude::*;

/// Fewest and most tiles that are multiplied together.
const BLOCK: [usize; 2] = [8, 64];
/// Bytes of weights for which a block has one tile more: it reads all weights once.
const WEIGHTS_OF_TILE: usize = 250_000;

/// How a convolution, or its gradient with respect to its input, is computed for given layouts.
#[derive(Debug, Clone)]
pub struct WinogradPlan {
    /// What is computed together, and how often it stands in the channels.
    slice: PackedShape,
    slices: usize,
    tiles: Tiles,
    read: Layout,
    written: Layout,
    /// The products of a block.
    product: RowPlan,
    block: usize,
    /// Sizes of a block before and after the products.
    sizes: [usize; 2],
}

impl WinogradPlan {
    /// The convolution: reads `x` and writes `out`. Its weights are [`transformed`](super::transformed).
    pub fn forward(shape: &Conv2dShape, x: Layout, out: Layout) -> Self {
        Self::new(PackedShape::of(shape), x, out)
    }

    /// The gradient with respect to the input: reads that of the output, `grad`, and writes `dx`. Its
    /// weights are those of [`mirrored`](super::mirrored).
    pub fn backward_input(shape: &Conv2dShape, grad: Layout, dx: Layout) -> Self {
        let weight = PackedShape::of(shape);
        Self::new(PackedShape { inputs: weight.outputs, outputs: weight.inputs, ..weight }, grad, dx)
    }

    fn new(weight: PackedShape, read: Layout, written: Layout) -> Self {
        assert!(read.border >= 1, "a border of one pixel is read");
        let tiles = Tiles::of(written);
        let slice = slice(&weight);
        let most = (transformed_len(&slice) * size_of::<f32>() / WEIGHTS_OF_TILE).clamp(BLOCK[0], BLOCK[1]);
        // As many blocks for every thread, of much the same size.
        let blocks = tiles.count().div_ceil(most).next_multiple_of(rayon::current_num_threads());
        let block = tiles.count().div_ceil(blocks);
        let channels = [slice.inputs, slice.outputs].map(|channels| slice.groups * channels);
        let layouts = channels.map(|channels| tile_layout(block, POSITIONS * channels));
        let product = RowPlan::product(transformed_shape(&slice), layouts[0], layouts[1]);
        let slices = weight.groups / slice.groups;
        Self { slice, slices, tiles, read, written, product, block, sizes: layouts.map(|l| l.len()) }
    }

    /// Computes all images. `bias` has one value for each [lane](PackedShape::lanes) of the weights.
    pub fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        assert!(x.len() >= self.read.len() && out.len() >= self.written.len(), "images");
        assert!(weight.len() >= self.slices * transformed_len(&self.slice), "weights");
        let (tiles, read, layout) = (self.tiles, self.read, self.written);
        let out = Shared::new(out);
        let blocks = tiles.count().div_ceil(self.block);
        (0..self.slices * blocks).into_par_iter().for_each(|i| {
            let (slice, first) = (i / blocks, i % blocks * self.block);
            let count = self.block.min(tiles.count() - first);
            let weight = &weight[slice * transformed_len(&self.slice)..][..transformed_len(&self.slice)];
            let channels = |each: usize| slice * self.slice.groups * each..(slice + 1) * self.slice.groups * each;
            let (inputs, outputs) = (channels(self.slice.inputs), channels(self.slice.outputs));
            let mut dense = [0.0; SLICE];
            let bias = bias.map(|lanes| self.bias(&lanes[slice * self.slice.lanes()..], &mut dense));
            scratch(self.sizes, |[before, after]| {
                let arch = Arch::new();
                let transform = Transform::Input;
                let image = (x, read);
                // The last block may be shorter; what its products beyond are is not used.
                arch.dispatch(ToTiles {
                    transform,
                    row: None,
                    tiles,
                    image,
                    channels: inputs,
                    first,
                    count,
                    out: before,
                });
                self.product.run_alone(before, weight, after);
                arch.dispatch(FromTiles { tiles, first, count, values: after, bias, layout, channels: outputs, out });
            });
        });
    }

    /// The bias of a slice by channel, from that of its lanes: groups may leave lanes unused.
    fn bias<'a>(&self, lanes: &'a [f32], dense: &'a mut [f32; SLICE]) -> &'a [f32] {
        if self.slice.groups == 1 {
            return lanes;
        }
        for (channel, value) in dense.iter_mut().enumerate().take(self.slice.groups * self.slice.outputs) {
            *value = lanes[self.slice.lane(channel)];
        }
        dense
    }
}
