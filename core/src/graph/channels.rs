//! Channels that must share a scale: dividing them by a factor and multiplying where they are read leaves the network's
//! function unchanged (cross-layer equalization, Nagel et al., arXiv 1906.04721, section 4.1).

use super::{Graph, NodeId, Op};
use crate::ops::Activation;
use std::collections::BTreeMap;

/// Values whose channels can be scaled together, and the layers that compute and read them.
///
/// A layer's output channels can be divided by positive factors if whatever reads them multiplies by the same factors.
/// ReLU, clips, pooling, zero padding, flattening and concatenation pass such a factor on; an addition ties the
/// channels of its operands to each other. The network's input and outputs, the operands of other activation functions, gates
/// of products and operators of plugins cannot be scaled, and whatever is tied to one of their channels neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelGroup {
    /// The values, in the order of execution.
    pub values: Vec<NodeId>,
    /// The layers that compute them; they are among the values.
    pub producers: Vec<NodeId>,
    /// The layers that read them.
    pub consumers: Vec<NodeId>,
    /// Number of factors.
    pub factors: usize,
    /// For each value the factor of each channel; `None` for a channel that cannot be scaled.
    channels: BTreeMap<NodeId, Vec<Option<usize>>>,
}

impl ChannelGroup {
    /// For each channel (or feature) of a value the number of its factor; `None` for a channel that cannot be scaled.
    /// Empty if the value does not belong to the group.
    pub fn channels(&self, value: NodeId) -> &[Option<usize>] {
        self.channels.get(&value).map_or(&[], Vec::as_slice)
    }
}

/// All groups of channels of a network that can be scaled, in the order of their first values.
pub fn channel_groups(graph: &Graph) -> Vec<ChannelGroup> {
    let mut ties = Ties::new(graph);
    for (id, _) in graph.nodes() {
        ties.of_node(id);
    }
    graph.outputs().iter().for_each(|id| ties.fix_value(*id));
    ties.groups()
}

/// What is tied to what: channels with channels, and values with values.
struct Ties<'a> {
    graph: &'a Graph,
    /// Number of the first channel of each value among all channels.
    first: Vec<usize>,
    channels: Sets,
    values: Sets,
    /// Channels that cannot be scaled.
    fixed: Vec<usize>,
}

impl<'a> Ties<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut first = vec![0];
        for (_, node) in graph.nodes() {
            first.push(first[first.len() - 1] + channels_of(&node.shape));
        }
        let (channels, values) = (Sets::new(first[first.len() - 1]), Sets::new(first.len() - 1));
        Self { graph, first, channels, values, fixed: Vec::new() }
    }

    fn channel(&self, value: NodeId, channel: usize) -> usize {
        self.first[value.index()] + channel
    }

    fn count(&self, value: NodeId) -> usize {
        channels_of(&self.graph.node(value).shape)
    }

    fn fix_value(&mut self, value: NodeId) {
        let first = self.first[value.index()];
        self.fixed.extend(first..first + self.count(value));
    }

    /// Ties channel `c` of `a` to channel `to(c)` of `b`, for all channels of `a`.
    fn tie(&mut self, a: NodeId, b: NodeId, to: impl Fn(usize) -> usize) {
        self.values.join(a.index(), b.index());
        for c in 0..self.count(a) {
            self.channels.join(self.channel(a, c), self.channel(b, to(c)));
        }
    }

    fn of_node(&mut self, id: NodeId) {
        let graph = self.graph;
        let node = graph.node(id);
        match (&node.op, node.inputs.as_slice()) {
            (Op::Input, _) => self.fix_value(id),
            // Their output channels are new ones, which they scale with their own parameters.
            (Op::Conv2d { .. } | Op::Linear { .. } | Op::BatchNorm { .. }, _) => {}
            // The bound of a ReLU6 can become one for each channel.
            (
                Op::Activation(Activation::Relu | Activation::Relu6)
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Pad(_)
                | Op::UpsampleNearest { .. }
                | Op::Clip,
                [x],
            ) => self.tie(*x, id, |c| c),
            (Op::Add, [a, b]) => {
                self.tie(*a, id, |c| c);
                self.tie(*b, id, |c| c);
            }
            // The factor of one operand passes to the product.
            (Op::Mul, [x, gate]) => {
                self.tie(*x, id, |c| c);
                self.fix_value(*gate);
            }
            (Op::Flatten, [x]) => {
                let each = self.count(id) / self.count(*x).max(1);
                self.tie(id, *x, |feature| feature / each.max(1));
            }
            (Op::Concat, parts) => {
                let mut before = 0;
                for part in parts {
                    self.tie(*part, id, |c| before + c);
                    before += self.count(*part);
                }
            }
            (Op::Slice { start, .. }, [x]) => self.tie(id, *x, |c| start + c),
            (Op::ShuffleChannels { groups }, [x]) => {
                let each = self.count(id) / groups;
                self.tie(id, *x, |c| c % groups * each + c / groups);
            }
            // Functions and operators that pass no factor on; and nodes with another number of inputs than their operation has.
            (
                Op::Custom(_)
                | Op::Activation(_)
                | Op::LayerNorm { .. }
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Pad(_)
                | Op::UpsampleNearest { .. }
                | Op::Clip
                | Op::Add
                | Op::Mul
                | Op::Slice { .. }
                | Op::ShuffleChannels { .. }
                | Op::Flatten,
                inputs,
            ) => {
                inputs.iter().for_each(|input| self.fix_value(*input));
                self.fix_value(id);
            }
        }
    }

    fn groups(mut self) -> Vec<ChannelGroup> {
        let graph = self.graph;
        let mut fixed = vec![false; self.channels.0.len()];
        for channel in std::mem::take(&mut self.fixed) {
            fixed[self.channels.root(channel)] = true;
        }
        // By the number of the first value of each group, which is the root of its set.
        let mut groups: BTreeMap<usize, ChannelGroup> = BTreeMap::new();
        // The factor of each class of tied channels.
        let mut factors: BTreeMap<usize, usize> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            let group = groups.entry(self.values.root(id.index())).or_default();
            let mut channels = Vec::new();
            for c in 0..self.count(id) {
                let class = self.channels.root(self.channel(id, c));
                let factor = || {
                    group.factors += 1;
                    group.factors - 1
                };
                channels.push((!fixed[class]).then(|| *factors.entry(class).or_insert_with(factor)));
            }
            group.values.push(id);
            group.channels.insert(id, channels);
            if has_parameters(&node.op) {
                group.producers.push(id);
            }
        }
        for (id, node) in graph.nodes().filter(|(_, node)| has_parameters(&node.op)) {
            let Some(input) = node.inputs.first() else { continue };
            if let Some(group) = groups.get_mut(&self.values.root(input.index())) {
                group.consumers.push(id);
            }
        }
        groups.into_values().filter(|group| group.factors > 0).collect()
    }
}

/// Whether the operation can scale its output and undo a scale of its input with its parameters.
fn has_parameters(op: &Op) -> bool {
    op.has_weight() || matches!(op, Op::BatchNorm { .. })
}

/// The input channel (or feature) that element `i` of a layer's weight multiplies; `weight` is its shape (O, I, ...), with the
/// inputs of one group of the layer's [groups](Op::groups).
pub fn channel_read(i: usize, weight: &[usize], groups: usize) -> usize {
    let pixels: usize = weight[2..].iter().product();
    let (output, input) = (i / pixels / weight[1], i / pixels % weight[1]);
    // Output channels of a group read its input channels.
    output / (weight[0] / groups) * weight[1] + input
}

/// Channels of an image, features of a flat value.
fn channels_of(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or_default()
}

/// Disjoint sets of numbers.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    /// The smaller root stays one.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv2d, GraphBuilder, Pool2d};
    use crate::ops::Activation;

    fn names(graph: &Graph, ids: &[NodeId]) -> Vec<String> {
        ids.iter().map(|id| graph.node(*id).name.clone()).collect()
    }

    #[test]
    fn weights_of_a_group_read_its_channels() {
        // Two groups of 2 filters that read 3 channels each, through kernels of 2 x 1.
        let read: Vec<usize> = (0..4 * 3 * 2).map(|i| channel_read(i, &[4, 3, 2, 1], 2)).collect();
        let of_filter = |first: usize| [0, 0, 1, 1, 2, 2].map(|c| first + c);
        assert_eq!(read, [0, 0, 3, 3].map(of_filter).concat());
        assert_eq!((0..6).map(|i| channel_read(i, &[2, 3], 1)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_residual_stream_is_one_group_and_a_depthwise_convolution_has_two_sides() {
        let mut b = GraphBuilder::new([3, 8, 8]);
        let x = b.input();
        let stem = b.conv2d("stem", x, Conv2d::new(4, 1)).unwrap();
        let expand = b.conv2d("expand", stem, Conv2d::new(8, 1)).unwrap();
        let a = b.relu6("a", expand).unwrap();
        let depthwise = b.conv2d("depthwise", a, Conv2d::new(8, 3).padding(1).groups(8)).unwrap();
        let d = b.relu("d", depthwise).unwrap();
        let project = b.conv2d("project", d, Conv2d::new(4, 1)).unwrap();
        let sum = b.add("sum", stem, project).unwrap();
        let pooled = b.global_average_pool("pool", sum).unwrap();
        let flat = b.flatten("flat", pooled).unwrap();
        let out = b.linear("fc", flat, 2).unwrap();
        let graph = b.finish(out).unwrap();
        let groups = channel_groups(&graph);
        assert_eq!(groups.len(), 3);
        let [stream, inner, outer] = &groups[..] else { unreachable!() };
        assert_eq!(names(&graph, &stream.values), ["stem", "project", "sum", "pool", "flat"]);
        assert_eq!(names(&graph, &stream.producers), ["stem", "project"]);
        assert_eq!(names(&graph, &stream.consumers), ["expand", "fc"]);
        assert_eq!((stream.factors, inner.factors, outer.factors), (4, 8, 8));
        assert_eq!(names(&graph, &inner.values), ["expand", "a"]);
        assert_eq!(names(&graph, &inner.consumers), ["depthwise"]);
        assert_eq!(names(&graph, &outer.producers), ["depthwise"]);
        assert_eq!(names(&graph, &outer.consumers), ["project"]);
        assert_eq!(stream.channels(project), stream.channels(stem));
        assert_eq!(stream.channels(expand), []);
    }

    #[test]
    fn concatenated_channels_keep_their_own_factors_and_a_gate_has_none() {
        let mut b = GraphBuilder::new([3, 4, 4]);
        let x = b.input();
        let left = b.conv2d("left", x, Conv2d::new(2, 1)).unwrap();
        let right = b.conv2d("right", x, Conv2d::new(3, 1)).unwrap();
        let curved = b.activation("curved", right, Activation::Silu).unwrap();
        let both = b.concat("both", &[left, curved]).unwrap();
        let small = b.max_pool("small", both, Pool2d::new(2)).unwrap();
        let flat = b.flatten("flat", small).unwrap();
        let last = b.linear("last", flat, 2).unwrap();
        let graph = b.finish(last).unwrap();
        let groups = channel_groups(&graph);
        assert_eq!(groups.len(), 1);
        assert_eq!(names(&graph, &groups[0].values), ["left", "curved", "both", "small", "flat"]);
        assert_eq!(groups[0].factors, 2);
        assert_eq!(groups[0].channels(both), [Some(0), Some(1), None, None, None]);
        // Four pixels of each channel are four features.
        let features = groups[0].channels(flat);
        assert_eq!(features[..9], [[Some(0); 4].as_slice(), &[Some(1); 4], &[None]].concat());

        let mut b = GraphBuilder::new([3, 4, 4]);
        let x = b.input();
        let value = b.conv2d("value", x, Conv2d::new(2, 1)).unwrap();
        let gate = b.global_average_pool("squeeze", value).unwrap();
        let gate = b.conv2d("excite", gate, Conv2d::new(2, 1)).unwrap();
        let gate = b.activation("sigmoid", gate, Activation::Sigmoid).unwrap();
        let gated = b.mul("gated", value, gate).unwrap();
        let last = b.conv2d("last", gated, Conv2d::new(2, 1)).unwrap();
        let graph = b.finish(last).unwrap();
        let groups = channel_groups(&graph);
        assert_eq!(groups.len(), 1);
        assert_eq!(names(&graph, &groups[0].values), ["value", "squeeze", "gated"]);
        assert_eq!(names(&graph, &groups[0].consumers), ["excite", "last"]);
    }
}
