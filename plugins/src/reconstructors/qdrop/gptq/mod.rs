//! A start better than nearest rounding (GPTQ, arXiv 2210.17323, section 3): the error of every weight that is rounded is
//! spread over the weights that are not rounded yet, so that the layer's output changes as little as possible.

mod compensate;
mod moments;

use super::grid::Grid;
use compensate::{compensate, Factor};
use moments::Moments;
use qdrop_core::kernels::Conv2dShape;
use qdrop_core::prelude::*;
use std::collections::BTreeMap;

/// Samples whose inputs are used, from the first one on.
const SAMPLES: usize = 256;
/// Samples that are computed together.
const TOGETHER: usize = 32;

/// From which weights learning begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// From the float weights: nearest rounding (AdaRound, arXiv 2004.10568).
    #[default]
    Nearest,
    /// From the weights of which GPTQ takes the nearest integers.
    Gptq,
}

/// Replaces the weights of a unit's layers by those of which GPTQ takes the nearest integers. Layers read the unit's
/// inputs in the network quantized so far through float weights and activation quantizers. A weight without a quantizer
/// stays as it is.
///
/// # Errors
/// Cached values cannot be read, or an operation fails.
pub fn start(unit: &mut UnitTask<'_>) -> Result<()> {
    let together = unit.samples.group().unwrap_or(TOGETHER);
    // Whole groups.
    let most = SAMPLES.max(together) / together * together;
    let count = unit.sample_count().min(most);
    let mut all: BTreeMap<NodeId, Moments> = BTreeMap::new();
    for node in unit.nodes() {
        if unit.model().weight_site(*node).is_some() {
            if let Some(shape) = convolution(unit.model().graph(), *node) {
                all.insert(*node, Moments::new(shape, count));
            }
        }
    }
    for first in (0..count).step_by(together) {
        let samples: Vec<usize> = (first..count.min(first + together)).collect();
        unit.layer_inputs(&samples, &mut |node, x| {
            if let Some(moments) = all.get_mut(&node) {
                let size = match *x.dims() {
                    [_, _, height, width] => [height, width],
                    _ => [1, 1],
                };
                ops::host_values(x, |x| moments.add(size, x))?;
            }
            Ok(())
        })?;
    }
    for (node, moments) in all {
        let model = unit.model();
        let (weight, Some(site)) = (model.weight(node)?, model.weight_site(node)) else { continue };
        let grid = Grid::of(&*site.quantizer, weight.dims())?;
        let values = ops::host_values(weight, |w| started(w, &moments.finish(), |i, v| grid.nearest(i, v)))?;
        let started = Tensor::from_vec(values, weight.dims(), weight.device())?;
        unit.set_weight(node, started)?;
    }
    Ok(())
}

/// A layer as a convolution; its batch does not matter. A fully connected layer is a 1 x 1 convolution.
fn convolution(graph: &Graph, node: NodeId) -> Option<Conv2dShape> {
    use qdrop_core::graph::Op;
    let layer = graph.node(node);
    let input = &graph.node(*layer.inputs.first()?).shape;
    let plain = Conv2dShape {
        batch: 1,
        in_channels: *input.first()?,
        in_height: 1,
        in_width: 1,
        out_channels: *layer.shape.first()?,
        kernel: [1, 1],
        stride: [1, 1],
        padding: ops::Padding::default(),
        dilation: [1, 1],
        groups: 1,
    };
    match (&layer.op, input.as_slice()) {
        (Op::Linear { .. }, [_]) => Some(plain),
        (Op::Conv2d { kernel, geometry, .. }, [_, height, width]) => Some(Conv2dShape {
            in_height: *height,
            in_width: *width,
            kernel: *kernel,
            stride: geometry.stride,
            padding: geometry.padding,
            dilation: geometry.dilation,
            groups: geometry.groups,
            ..plain
        }),
        _ => None,
    }
}

/// The weights (O, ...) of which the nearest points of the grid are GPTQ's, from second moments of the inputs of each group.
/// `nearest(i, v)` rounds the value `v` of element `i`.
fn started(weight: &[f32], moments: &[Vec<f64>], nearest: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
    let each = weight.len() / moments.len();
    let mut values = weight.to_vec();
    for (group, (values, moments)) in values.chunks_exact_mut(each).zip(moments).enumerate() {
        // Without any input, every rounding is as good as the nearest one.
        if let Some(factor) = Factor::of(moments) {
            compensate(values, &factor, |i, v| nearest(group * each + i, v));
        }
    }
    values
}

#[cfg(test)]
mod tests;
