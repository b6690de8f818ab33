//! The units of a network of which only the graph is known.

use super::{Graph, NodeId, Op};
use std::collections::HashSet;

/// Most layers of a part with branches that is one unit. Those of known networks have up to 10 (Inception-v3); a dense
/// block of DenseNet has 12 at least, and its layers become units of their own.
const MOST_LAYERS: usize = 11;

/// Divides a network into units of block reconstruction, each with a name and its nodes, in the order of execution.
///
/// The graph is cut after every node whose value is the only one that is read later. What lies between two cuts is a layer of a
/// chain, or a part with branches (a residual block, an inception module), which is one unit; normalizations
/// and activation functions that follow belong to it. A depthwise convolution of a chain is one unit with the 1 x 1
/// convolution before it that widens, its squeeze-and-excitation, and the 1 x 1 convolution after it (an inverted residual block
/// without shortcut, arXiv 1801.04381). Every layer is in one unit.
pub fn find_units(graph: &Graph) -> Vec<(String, Vec<NodeId>)> {
    let mut names = HashSet::new();
    let units = join_depthwise(graph, parts(graph));
    units.into_iter().map(|nodes| (name(graph, &nodes, &mut names), nodes)).collect()
}

impl Graph {
    /// The same graph with these units: pairs of a name and nodes.
    ///
    /// # Errors
    /// A unit reads no value from outside, or nothing outside reads a value of it.
    pub fn with_units(self, units: Vec<(String, Vec<NodeId>)>) -> crate::error::Result<Self> {
        let any_size = self.any_size();
        let (ends, nodes, outputs, _) = self.into_parts();
        Ok(Graph::new(nodes, outputs, units)?.named(ends)?.with_any_size(any_size))
    }
}

fn layers<'a>(graph: &'a Graph, nodes: &'a [NodeId]) -> impl Iterator<Item = NodeId> + 'a {
    nodes.iter().copied().filter(|id| graph.node(*id).op.has_weight())
}

/// What lies between two cuts of the graph, with the normalizations and activation functions that follow. Parts without layers are
/// kept, because they keep their neighbours apart.
fn parts(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut last_reader: Vec<usize> = (0..graph.nodes().count()).collect();
    for (id, node) in graph.nodes() {
        node.inputs.iter().for_each(|input| last_reader[input.index()] = id.index());
    }
    graph.outputs().iter().for_each(|output| last_reader[output.index()] = usize::MAX);
    let mut parts: Vec<Vec<NodeId>> = Vec::new();
    let mut begun = Vec::new();
    // The last reader of all values before the node.
    let mut needed = last_reader[0];
    for (id, node) in graph.nodes().skip(1) {
        begun.push(id);
        if needed <= id.index() {
            let part = std::mem::take(&mut begun);
            match parts.last_mut() {
                Some(before)
                    if part.len() == 1 && node.op.completes_layer() && layers(graph, before).next().is_some() =>
                {
                    before.extend(part);
                }
                _ => parts.push(part),
            }
        }
        needed = needed.max(last_reader[id.index()]);
    }
    parts.push(begun);
    parts
        .into_iter()
        .flat_map(|part| if layers(graph, &part).count() > MOST_LAYERS { apart(graph, &part) } else { vec![part] })
        .collect()
}

/// The layers of a part, each with what completes it.
fn apart(graph: &Graph, part: &[NodeId]) -> Vec<Vec<NodeId>> {
    layers(graph, part).map(|layer| [vec![layer], graph.completion(layer)].concat()).collect()
}

/// The layer of a part that has only one.
fn only_layer(graph: &Graph, part: &[NodeId]) -> Option<NodeId> {
    let mut all = layers(graph, part);
    all.next().filter(|_| all.next().is_none())
}

fn is_depthwise(graph: &Graph, layer: NodeId) -> bool {
    let node = graph.node(layer);
    let channels = node.inputs.first().map_or(0, |input| graph.node(*input).shape[0]);
    matches!(&node.op, Op::Conv2d { geometry, .. } if geometry.groups == channels && channels > 1)
}

fn is_pointwise(graph: &Graph, layer: NodeId) -> bool {
    matches!(&graph.node(layer).op, Op::Conv2d { kernel: [1, 1], geometry, .. } if geometry.groups == 1)
}

/// Whether a part only computes a gate from means: all its layers see one pixel.
fn is_gate(graph: &Graph, part: &[NodeId]) -> bool {
    let one_pixel = |id: NodeId| graph.node(id).shape[1..].iter().product::<usize>() == 1;
    let mut all = layers(graph, part).peekable();
    all.peek().is_some() && all.all(one_pixel) && part.iter().any(|id| graph.node(*id).op == Op::Mul)
}

/// Joins depthwise convolutions of a chain with their neighbours, and drops parts without layers.
fn join_depthwise(graph: &Graph, parts: Vec<Vec<NodeId>>) -> Vec<Vec<NodeId>> {
    /// What may still follow.
    #[derive(PartialEq)]
    enum Open {
        Nothing,
        /// The depthwise convolution of a 1 x 1 convolution.
        Depthwise,
        /// The gate or the projection of a depthwise convolution.
        Projection,
    }
    let mut units: Vec<Vec<NodeId>> = Vec::new();
    let mut open = Open::Nothing;
    for part in parts {
        let single = only_layer(graph, &part);
        let depthwise = single.is_some_and(|layer| is_depthwise(graph, layer));
        let pointwise = single.is_some_and(|layer| is_pointwise(graph, layer));
        let gate = is_gate(graph, &part);
        let joins = match open {
            Open::Nothing => false,
            Open::Depthwise => depthwise,
            Open::Projection => pointwise || gate,
        };
        open = match () {
            () if depthwise => Open::Projection,
            () if gate && joins => Open::Projection,
            () if pointwise && !joins => Open::Depthwise,
            () => Open::Nothing,
        };
        match units.last_mut() {
            Some(unit) if joins => unit.extend(part),
            _ if layers(graph, &part).next().is_some() => units.push(part),
            _ => {}
        }
    }
    units
}

/// The names of a unit's layers as far as they agree, or the name of the first one.
fn name(graph: &Graph, nodes: &[NodeId], taken: &mut HashSet<String>) -> String {
    let names: Vec<&str> = layers(graph, nodes).map(|id| graph.node(id).name.as_str()).collect();
    let first = names.first().copied().unwrap_or_default();
    let mut common: Vec<&str> = first.split('.').collect();
    for name in &names[1..] {
        let same = common.iter().zip(name.split('.')).take_while(|(a, b)| *a == b).count();
        common.truncate(same);
    }
    let common = common.join(".");
    let name = if common.is_empty() || taken.contains(&common) { first.to_string() } else { common };
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv2d, GraphBuilder, Pool2d};
    use crate::ops::Activation;

    fn found(graph: &Graph) -> Vec<(String, Vec<String>)> {
        let names = |nodes: Vec<NodeId>| nodes.iter().map(|id| graph.node(*id).name.clone()).collect();
        find_units(graph).into_iter().map(|(name, nodes)| (name, names(nodes))).collect()
    }

    #[test]
    fn a_residual_block_is_a_unit_and_so_is_a_layer_of_a_chain() {
        let mut b = GraphBuilder::new([3, 16, 16]);
        let x = b.input();
        let x = b.conv2d("stem", x, Conv2d::new(4, 3)).unwrap();
        let x = b.batch_norm("stem_bn", x, 1e-5).unwrap();
        let x = b.relu("stem_relu", x).unwrap();
        let x = b.max_pool("pool", x, Pool2d::new(2)).unwrap();
        let y = b.conv2d("layer1.0.a", x, Conv2d::new(4, 1)).unwrap();
        let y = b.relu("layer1.0.relu", y).unwrap();
        let y = b.conv2d("layer1.0.b", y, Conv2d::new(4, 1)).unwrap();
        let x = b.add("layer1.0.sum", x, y).unwrap();
        let x = b.relu("layer1.0.last", x).unwrap();
        let x = b.global_average_pool("mean", x).unwrap();
        let x = b.flatten("flat", x).unwrap();
        let x = b.linear("fc", x, 10).unwrap();
        let graph = b.finish(x).unwrap();
        let units = found(&graph);
        let names: Vec<&str> = units.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["stem", "layer1.0", "fc"]);
        assert_eq!(units[0].1, ["stem", "stem_bn", "stem_relu"]);
        assert_eq!(units[1].1, ["layer1.0.a", "layer1.0.relu", "layer1.0.b", "layer1.0.sum", "layer1.0.last"]);
        let with = graph.clone().with_units(find_units(&graph)).unwrap();
        assert_eq!(with.units().len(), 3);
    }

    #[test]
    fn a_depthwise_convolution_joins_its_neighbours() {
        let mut b = GraphBuilder::new([3, 16, 16]);
        let x = b.input();
        // The stem is no widening layer, as it has a kernel of 3 x 3.
        let mut x = b.conv2d("stem", x, Conv2d::new(8, 3)).unwrap();
        for (i, wide) in [false, true].into_iter().enumerate() {
            let n = |part: &str| format!("block{i}.{part}");
            if wide {
                x = b.conv2d(&n("expand"), x, Conv2d::new(8, 1)).unwrap();
                x = b.activation(&n("silu"), x, Activation::Silu).unwrap();
            }
            x = b.conv2d(&n("depthwise"), x, Conv2d::new(8, 3).groups(8)).unwrap();
            let gate = b.global_average_pool(&n("squeeze"), x).unwrap();
            let gate = b.conv2d(&n("excite"), gate, Conv2d::new(8, 1)).unwrap();
            let gate = b.activation(&n("gate"), gate, Activation::Sigmoid).unwrap();
            x = b.mul(&n("gated"), x, gate).unwrap();
            x = b.conv2d(&n("project"), x, Conv2d::new(8, 1)).unwrap();
        }
        let x = b.conv2d("head", x, Conv2d::new(8, 1)).unwrap();
        let x = b.conv2d("last", x, Conv2d::new(2, 3)).unwrap();
        let graph = b.finish(x).unwrap();
        let units = found(&graph);
        let names: Vec<&str> = units.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["stem", "block0", "block1", "head", "last"]);
        assert_eq!(units[1].1.len(), 6);
        assert_eq!(units[2].1.len(), 8);
    }

    #[test]
    fn a_part_with_too_many_layers_falls_apart() {
        let mut b = GraphBuilder::new([3, 4, 4]);
        let mut values = vec![b.input()];
        for i in 0..12 {
            let all = b.concat(&format!("all{i}"), &values).unwrap();
            let x = b.batch_norm(&format!("bn{i}"), all, 1e-5).unwrap();
            let x = b.conv2d(&format!("conv{i}"), x, Conv2d::new(2, 1)).unwrap();
            values.push(b.relu(&format!("relu{i}"), x).unwrap());
        }
        let all = b.concat("all", &values).unwrap();
        let x = b.conv2d("last", all, Conv2d::new(2, 1)).unwrap();
        let graph = b.finish(x).unwrap();
        let units = found(&graph);
        assert_eq!(units.len(), 13);
        assert_eq!(units[3].1, ["conv3", "relu3"]);
    }
}
