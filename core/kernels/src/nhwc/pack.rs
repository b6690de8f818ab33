//! Weights in tiles: the output channels of a tile follow each other in memory.

use crate::conv::Conv2dShape;

/// Output channels of a tile.
pub const TILE: usize = 32;

/// Sizes of packed weights: (group, tile, ky, kx, input channel, output channel of the tile). The
/// last tile of a group may have unused lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedShape {
    /// Number of groups.
    pub groups: usize,
    /// Input channels of a group.
    pub inputs: usize,
    /// Output channels of a group.
    pub outputs: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
}

impl PackedShape {
    /// The packed form of a convolution's weight.
    pub fn of(shape: &Conv2dShape) -> Self {
        Self {
            groups: shape.groups,
            inputs: shape.in_channels / shape.groups,
            outputs: shape.out_channels / shape.groups,
            kernel: shape.kernel,
        }
    }

    /// Tiles of one group.
    pub fn tiles(&self) -> usize {
        self.outputs.div_ceil(TILE)
    }

    /// Elements of one tap of a tile.
    pub fn tap(&self) -> usize {
        self.inputs * TILE
    }

    /// Elements of one tile.
    pub fn tile(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.tap()
    }

    /// Elements of all weights, unused lanes included.
    pub fn len(&self) -> usize {
        self.groups * self.tiles() * self.tile()
    }

    /// Elements of an array with one value for each lane: (group, tile, output channel of the tile).
    pub fn lanes(&self) -> usize {
        self.groups * self.tiles() * TILE
    }

    /// Place of output channel `o` (of all groups) in an array of [`lanes`](Self::lanes).
    pub fn lane(&self, o: usize) -> usize {
        let (group, own) = (o / self.outputs, o % self.outputs);
        (group * self.tiles() + own / TILE) * TILE + own % TILE
    }

    /// Place of a weight of output channel `o` (of all groups) and input channel `i` (of the group).
    pub fn at(&self, o: usize, i: usize, ky: usize, kx: usize) -> usize {
        let lane = self.lane(o);
        let tap = (lane / TILE * self.kernel[0] + ky) * self.kernel[1] + kx;
        (tap * self.inputs + i) * TILE + lane % TILE
    }

    /// Calls `body(place, index)` for each weight: its place here and in (O, I, H, W) order.
    fn for_each(&self, mut body: impl FnMut(usize, usize)) {
        let mut index = 0;
        for o in 0..self.groups * self.outputs {
            for i in 0..self.inputs {
                for ky in 0..self.kernel[0] {
                    for kx in 0..self.kernel[1] {
                        body(self.at(o, i, ky, kx), index);
                        index += 1;
                    }
                }
            }
        }
    }

    /// Packs values in (O, I, H, W) order; unused lanes keep what they hold.
    pub fn pack(&self, values: &[f32], out: &mut [f32]) {
        assert_eq!(
            (values.len(), out.len()),
            (self.groups * self.outputs * self.inputs * self.kernel[0] * self.kernel[1], self.len())
        );
        self.for_each(|place, index| out[place] = values[index]);
    }

    /// The reverse of [`pack`](Self::pack).
    pub fn unpack(&self, packed: &[f32], out: &mut [f32]) {
        assert_eq!(packed.len(), self.len());
        self.for_each(|place, index| out[index] = packed[place]);
    }
}
