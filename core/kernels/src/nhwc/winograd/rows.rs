//! The convolution and the gradient of its input, block of tiles by block of tiles.

use super::super::shared::Shared;
use super::super::{Buffer, Layout, PackedShape, RowPlan};
use super::transform::{FromTiles, Kind, ToTiles};
use super::{tile_layout, transformed_shape, Tiles, GAP, POSITIONS};
use crate::conv::Conv2dShape;
use pulp::Arch;
use rayon::prelude::*;

/// Tiles that are multiplied together: four register tiles.
const BLOCK: usize = 56;
/// Parts of the tiles with buffers of their own.
const PARTS: usize = 8;

/// How a convolution, or its gradient with respect to its input, is computed for given layouts.
#[derive(Debug, Clone)]
pub struct WinogradPlan {
    tiles: Tiles,
    read: Layout,
    written: Layout,
    /// The products of a block.
    product: RowPlan,
    block: usize,
    /// Values of a block before and after the products, for each part.
    buffers: Vec<[Buffer; 2]>,
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
        let block = BLOCK.min(tiles.count());
        let layouts = [weight.inputs, weight.outputs].map(|channels| tile_layout(block, channels));
        let product = RowPlan::product(transformed_shape(&weight), layouts[0], layouts[1]);
        let parts = PARTS.min(tiles.count().div_ceil(block));
        let buffers = vec![layouts.map(|l| Buffer::zeros(l.len())); parts];
        Self { tiles, read, written, product, block, buffers }
    }

    /// Computes all images. `bias` has one value for each channel that is written.
    pub fn run(&mut self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let Self { tiles, read, written, product, block, buffers } = self;
        assert!(x.len() >= read.len() && out.len() >= written.len(), "images");
        let (tiles, read, layout, block) = (*tiles, *read, *written, *block);
        let blocks = tiles.count().div_ceil(block);
        let parts = buffers.len();
        let out = Shared::new(out);
        buffers.par_iter_mut().enumerate().for_each(|(part, [before, after])| {
            for i in part * blocks / parts..(part + 1) * blocks / parts {
                let first = i * block;
                let arch = Arch::new();
                // The last block may be shorter; what its buffers hold beyond is not used.
                let count = block.min(tiles.count() - first);
                let values = &mut before[..count * (POSITIONS * read.channels + GAP)];
                arch.dispatch(ToTiles { kind: Kind::Input, tiles, image: (x, read), first, out: values });
                product.run_alone(before, weight, after);
                arch.dispatch(FromTiles { tiles, first, values: after, bias, layout, out });
            }
        });
    }
}
