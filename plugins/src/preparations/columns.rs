//! How large the weights are that read a channel.

use qdrop_core::graph::channel_read;
use qdrop_core::ops::host_values;
use qdrop_core::prelude::*;

/// What decides the factor of a channel.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// The range of its values.
    pub range: f64,
    /// The size of its column in the weights of the dense layers that read it, where all ranges are 1: the root mean square
    /// over the rows, each relative to its own size. The largest one of a group is 1, and so is that of a channel that contributes
    /// nothing. It does not depend on how the network's channels were scaled before.
    pub column: f64,
}

/// Whether each input channel of a layer has weights of its own, which share a scale with no other one.
pub fn is_depthwise(graph: &Graph, layer: NodeId) -> bool {
    let node = graph.node(layer);
    let inputs = node.inputs.first().map(|input| graph.node(*input).shape[0]);
    matches!(&node.op, Op::Conv2d { geometry, .. } if Some(geometry.groups) == inputs)
}

/// The channels of a group with these ranges.
///
/// # Errors
/// A weight is missing.
pub fn channels(model: &QuantModel, group: &ChannelGroup, ranges: &[f64]) -> Result<Vec<Channel>> {
    let graph = model.graph();
    let mut squares = vec![0.0; ranges.len()];
    for layer in &group.consumers {
        let node = graph.node(*layer);
        let Some(input) = node.inputs.first().filter(|_| node.op.has_weight() && !is_depthwise(graph, *layer)) else {
            continue;
        };
        let read = group.channels(*input);
        let weight = model.parameter(&format!("{}.weight", node.name))?;
        let (dims, groups) = (weight.dims(), node.op.groups());
        let inner: usize = dims[1..].iter().product();
        host_values(weight, |weight| {
            for (o, row) in weight.chunks_exact(inner).enumerate() {
                let part = |(i, w): (usize, &f32)| {
                    let factor = read[channel_read(o * inner + i, dims, groups)];
                    (factor, (f64::from(*w) * factor.map_or(1.0, |f| ranges[f])).powi(2))
                };
                let parts: Vec<(Option<usize>, f64)> = row.iter().enumerate().map(part).collect();
                let all: f64 = parts.iter().map(|(_, square)| square).sum();
                for (factor, square) in parts.into_iter().filter(|(_, square)| *square > 0.0) {
                    if let Some(f) = factor {
                        squares[f] += square / all;
                    }
                }
            }
        })?;
    }
    // A channel without a contribution is as good as any other.
    let largest = squares.iter().copied().fold(0.0, f64::max);
    let column = |square: f64| if square > 0.0 { (square / largest).sqrt() } else { 1.0 };
    Ok(ranges.iter().zip(squares).map(|(range, square)| Channel { range: *range, column: column(square) }).collect())
}
