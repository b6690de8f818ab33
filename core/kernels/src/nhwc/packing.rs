//! How the weight of a convolution lies in memory.

use super::buffer::Buffer;
use super::depthwise::is_depthwise;
use super::pack::{PackedShape, TILE};
use super::rounding::LaneShape;
use crate::conv::Conv2dShape;

/// How a weight lies in memory: what its convolution reads, and what is learned of it (rounding variables,
/// moments, gradients) has the same order. Lanes are values that follow each other in memory, one for each output
/// channel; some may be unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing(Order);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// In tiles of output channels.
    Tiles(PackedShape),
    /// (ky, kx, channel), of a depthwise convolution.
    Depthwise { channels: usize, taps: usize },
}
use Order::{Depthwise, Tiles};

impl Packing {
    /// The packing of the weight of this convolution.
    pub fn of(shape: &Conv2dShape) -> Self {
        Self(if is_depthwise(shape) {
            Depthwise { channels: shape.groups, taps: shape.kernel[0] * shape.kernel[1] }
        } else {
            Tiles(PackedShape::of(shape))
        })
    }

    /// The sizes of the tiles, unless the weight is that of a depthwise convolution.
    pub(super) fn tiles(&self) -> Option<PackedShape> {
        match self.0 {
            Tiles(packed) => Some(packed),
            Depthwise { .. } => None,
        }
    }

    /// Elements of the packed weight, unused lanes included.
    pub fn len(&self) -> usize {
        match &self.0 {
            Tiles(p) => p.len(),
            Depthwise { channels, taps } => channels * taps,
        }
    }

    /// Whether there is no weight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of the weight's tensor.
    fn weights(&self) -> usize {
        match &self.0 {
            Tiles(p) => p.groups * p.outputs * p.inputs * p.kernel[0] * p.kernel[1],
            Depthwise { .. } => self.len(),
        }
    }

    /// Elements of one value for each output channel, unused lanes included.
    pub fn lanes(&self) -> usize {
        match &self.0 {
            Tiles(p) => p.lanes(),
            Depthwise { channels, .. } => *channels,
        }
    }

    /// Place of an output channel's value among the lanes.
    pub fn lane(&self, output: usize) -> usize {
        match &self.0 {
            Tiles(p) => p.lane(output),
            Depthwise { .. } => output,
        }
    }

    fn outputs(&self) -> usize {
        match &self.0 {
            Tiles(p) => p.groups * p.outputs,
            Depthwise { channels, .. } => *channels,
        }
    }

    /// The packed weight as groups of rows of lanes.
    pub fn lane_shape(&self) -> LaneShape {
        match &self.0 {
            Tiles(p) => LaneShape { rows: p.tile() / TILE, lanes: TILE },
            Depthwise { channels, taps } => LaneShape { rows: *taps, lanes: *channels },
        }
    }

    /// Packs values in the order of the weight's tensor; unused lanes are zero.
    pub fn pack(&self, values: &[f32]) -> Buffer {
        assert_eq!(values.len(), self.weights(), "elements of the weight's tensor");
        let mut out = Buffer::zeros(self.len());
        match &self.0 {
            Tiles(p) => p.pack(values, &mut out),
            Depthwise { channels, taps } => {
                for (i, v) in values.iter().enumerate() {
                    out[i % taps * channels + i / taps] = *v;
                }
            }
        }
        out
    }

    /// The reverse of [`pack`](Self::pack).
    pub fn unpack(&self, packed: &[f32]) -> Vec<f32> {
        assert_eq!(packed.len(), self.len(), "elements of the packed weight");
        let mut out = vec![0.0; self.weights()];
        match &self.0 {
            Tiles(p) => p.unpack(packed, &mut out),
            Depthwise { channels, taps } => {
                for (i, v) in out.iter_mut().enumerate() {
                    *v = packed[i % taps * channels + i / taps];
                }
            }
        }
        out
    }

    /// Packs one value for each output channel; unused lanes are zero.
    pub fn pack_lanes(&self, values: &[f32]) -> Buffer {
        assert_eq!(values.len(), self.outputs(), "one value for each output channel");
        let mut out = Buffer::zeros(self.lanes());
        for (output, value) in values.iter().enumerate() {
            out[self.lane(output)] = *value;
        }
        out
    }

    /// The reverse of [`pack_lanes`](Self::pack_lanes), for numbers of any type.
    pub fn unpack_lanes<T: Copy>(&self, lanes: &[T]) -> Vec<T> {
        assert_eq!(lanes.len(), self.lanes(), "one value for each lane");
        (0..self.outputs()).map(|output| lanes[self.lane(output)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Padding;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_is_reversible_and_keeps_channels_in_their_lanes(
            groups in 1_usize..4, inputs in 1_usize..5, outputs in prop::sample::select(vec![1_usize, 5, 31, 32, 33, 70]),
            depthwise in any::<bool>(), kernel in [1_usize..4, 1_usize..4],
        ) {
            let (groups, inputs, outputs) = if depthwise { (groups + 1, 1, 1) } else { (groups, inputs, outputs) };
            let shape = Conv2dShape {
                batch: 1, in_channels: groups * inputs, in_height: 5, in_width: 5, out_channels: groups * outputs,
                kernel, stride: [1, 1], padding: Padding::default(), dilation: [1, 1], groups,
            };
            let packing = Packing::of(&shape);
            let values: Vec<f32> = (0..shape.weight_len()).map(|i| (i + 1) as f32).collect();
            let packed = packing.pack(&values);
            prop_assert_eq!(packing.unpack(&packed), values.clone());
            prop_assert_eq!(packed.len(), packing.len());
            let channels: Vec<f32> = (0..shape.out_channels).map(|i| (i + 1) as f32).collect();
            let lanes = packing.pack_lanes(&channels);
            prop_assert_eq!(packing.unpack_lanes(&lanes), channels);
            // Every weight lies in the lane of its output channel; unused lanes are zero.
            let rows = packing.lane_shape();
            prop_assert_eq!(rows.lanes * (packing.len() / (rows.rows * rows.lanes)), packing.lanes());
            let each = shape.weight_len() / shape.out_channels;
            for (i, weight) in packed.iter().enumerate() {
                let lane = lanes[i / (rows.rows * rows.lanes) * rows.lanes + i % rows.lanes];
                let want = if *weight == 0.0 { 0.0 } else { ((*weight as usize - 1) / each + 1) as f32 };
                prop_assert_eq!(lane, want);
            }
        }
    }
}
