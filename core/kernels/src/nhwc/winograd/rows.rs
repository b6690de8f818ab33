//! The convolution and the gradient of its input, block of tiles by block of tiles.

use super::super::layout::Layout;
use super::super::pack::PackedShape;
use super::super::pointer::Interleaved;
use super::super::rows::RowPlan;
use super::transform::{FromTiles, ToTiles, Transform};
use super::{scratch, tile_layout, transformed_shape, Slices, Tiles, POSITIONS};
use crate::conv::Conv2dShape;
use pulp::Arch;
use rayon::prelude::*;

/// Least and greatest number of tiles that are multiplied together.
const BLOCK: [usize; 2] = [8, 64];
/// A block has a tile for so many bytes of weights: it reads all weights once, which pays if it has enough tiles.
const WEIGHTS_OF_TILE: usize = 250_000;

/// A convolution, or its gradient with respect to the input, planned for given layouts.
#[derive(Debug, Clone)]
pub struct WinogradPlan {
    slices: Slices,
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
        let slices = Slices::of(&weight);
        let most = (slices.transformed_len() * size_of::<f32>() / WEIGHTS_OF_TILE).clamp(BLOCK[0], BLOCK[1]);
        // The same number of blocks for every thread, of almost the same size.
        let blocks = tiles.count().div_ceil(most).next_multiple_of(rayon::current_num_threads());
        let block = tiles.count().div_ceil(blocks);
        let channels = [slices.inputs(0).len(), slices.outputs(0).len()];
        let layouts = channels.map(|channels| tile_layout(block, POSITIONS * channels));
        let product = RowPlan::product(transformed_shape(&slices.each), layouts[0], layouts[1]);
        Self { slices, tiles, read, written, product, block, sizes: layouts.map(|l| l.len()) }
    }

    /// Computes all images. `bias` has one value for each [lane](PackedShape::lanes) of the weights.
    pub fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        assert!(x.len() >= self.read.len() && out.len() >= self.written.len(), "images");
        assert!(weight.len() >= self.slices.count * self.slices.transformed_len(), "weights");
        let (slices, tiles, layout) = (self.slices, self.tiles, self.written);
        let out = Interleaved::new(out);
        let blocks = tiles.count().div_ceil(self.block);
        (0..slices.count * blocks).into_par_iter().for_each(|i| {
            let (slice, first) = (i / blocks, i % blocks * self.block);
            let count = self.block.min(tiles.count() - first);
            let weight = &weight[slice * slices.transformed_len()..][..slices.transformed_len()];
            let mut dense = [0.0; Slices::CHANNELS];
            let bias = bias.map(|lanes| self.bias(&lanes[slice * slices.each.lanes()..], &mut dense));
            scratch(self.sizes, |[before, after]| {
                let arch = Arch::new();
                let (transform, row, image, channels) = (Transform::Input, None, (x, self.read), slices.inputs(slice));
                // The last block may have fewer tiles; the products of those that are missing are not used.
                arch.dispatch(ToTiles { transform, row, tiles, image, channels, first, count, out: before });
                self.product.run_alone(before, weight, after);
                let (values, channels) = (&*after, slices.outputs(slice));
                arch.dispatch(FromTiles { tiles, first, count, values, bias, layout, channels, out });
            });
        });
    }

    /// The bias of each channel of a slice, from that of its lanes, of which every group may leave some unused.
    fn bias<'a>(&self, lanes: &'a [f32], dense: &'a mut [f32; Slices::CHANNELS]) -> &'a [f32] {
        let slice = &self.slices.each;
        if slice.groups == 1 {
            return lanes;
        }
        for (channel, value) in dense.iter_mut().enumerate().take(slice.groups * slice.outputs) {
            *value = lanes[slice.lane(channel)];
        }
        dense
    }
}
