//! Where quantizers are placed in a network (QDrop's published setting, arXiv 2203.05740).

use super::{Graph, NodeId, Op};

/// What the quantizer at a site quantizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// The weight of the node.
    Weight,
    /// The value of the node.
    Activation,
}

/// A place for a quantizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The node whose weight or value is quantized.
    pub node: NodeId,
    /// The name that overrides and reports use: that of the layer or addition that computes the value.
    pub name: String,
    /// What is quantized.
    pub kind: SiteKind,
    /// Whether this is the first site of its kind in the network.
    pub first: bool,
    /// Whether this is the last site of its kind in the network.
    pub last: bool,
}

/// All places for quantizers, in the order of execution.
///
/// Weights: every convolution and linear layer. Activations: the value of each layer (after its
/// batch normalization and activation function) and of each addition or product (after its
/// activation function). Exceptions: a layer without activation function whose value goes straight into an
/// addition, the network's input, and its outputs.
pub fn quantization_sites(graph: &Graph) -> Vec<Site> {
    let mut sites = Vec::new();
    for (id, node) in graph.nodes() {
        let site = |node, kind| Site { node, name: graph.node(id).name.clone(), kind, first: false, last: false };
        if node.op.has_weight() {
            sites.push(site(id, SiteKind::Weight));
        }
        if node.op.has_weight() || node.op.combines() {
            if let Some(value) = activation_site(graph, id) {
                sites.push(site(value, SiteKind::Activation));
            }
        }
    }
    for kind in [SiteKind::Weight, SiteKind::Activation] {
        let mut of_kind: Vec<&mut Site> = sites.iter_mut().filter(|s| s.kind == kind).collect();
        if let Some(first) = of_kind.first_mut() {
            first.first = true;
        }
        if let Some(last) = of_kind.last_mut() {
            last.last = true;
        }
    }
    sites
}

/// The value at which the output of `head` is quantized, or `None` if it is not.
fn activation_site(graph: &Graph, head: NodeId) -> Option<NodeId> {
    let mut value = head;
    let mut activated = false;
    while let [next] = graph.consumers(value)[..] {
        let op = &graph.node(next).op;
        if !op.completes_layer() {
            break;
        }
        activated |= matches!(op, Op::Activation(_) | Op::Clip);
        value = next;
    }
    let is_layer = graph.node(head).op.has_weight();
    let consumers = graph.consumers(value);
    let only_added = !consumers.is_empty() && consumers.iter().all(|c| graph.node(*c).op == Op::Add);
    let skipped = is_layer && !activated && only_added;
    (!skipped && !reaches_output(graph, value)).then_some(value)
}

/// Whether the value, possibly reshaped, is an output of the network.
fn reaches_output(graph: &Graph, mut value: NodeId) -> bool {
    loop {
        if graph.outputs().contains(&value) {
            return true;
        }
        match graph.consumers(value)[..] {
            [next] if graph.node(next).op == Op::Flatten => value = next,
            _ => return false,
        }
    }
}
