//! Where quantizers are placed in a network (QDrop's published setting, arXiv 2203.05740).

use super::{Graph, NodeId, Op, Placement};
use crate::ops::Activation;
use std::collections::HashSet;

/// What the quantizer at a site quantizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteKind {
    /// The weight of the node.
    Weight,
    /// The value of the node.
    Activation,
}

impl SiteKind {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Activation => "activation",
        }
    }
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
/// normalization and activation function) and of each addition or product (after its
/// activation function). A normalization or activation function that reads something else, such as a concatenation or a
/// value with several readers, has a site of its own, but for ReLU, which leaves values on their grid. Exceptions: a layer
/// without activation function whose value goes straight into an addition, the network's input, and its outputs. A node's
/// [`Placement`] goes before all of this.
pub fn quantization_sites(graph: &Graph) -> Vec<Site> {
    let mut sites = Vec::new();
    // Nodes that complete a layer or a combination.
    let mut completing: HashSet<NodeId> = HashSet::new();
    for (id, node) in graph.nodes() {
        let site = |node, kind| Site { node, name: graph.node(id).name.clone(), kind, first: false, last: false };
        if node.op.has_weight() {
            sites.push(site(id, SiteKind::Weight));
        }
        let relu = node.op == Op::Activation(Activation::Relu);
        // A shifted and scaled input of the network is not quantized, as the input is not.
        let of_input = node.inputs.contains(&graph.input());
        let alone = node.op.completes_layer() && !completing.contains(&id) && !relu && !of_input;
        if node.op.has_weight() || node.op.combines() || alone {
            let completed = graph.completion(id);
            completing.extend(&completed);
            if let Some(value) = activation_site(graph, id, &completed) {
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

/// The value at which the output of `head`, which these nodes complete, is quantized, or `None` if it is not.
fn activation_site(graph: &Graph, head: NodeId, completed: &[NodeId]) -> Option<NodeId> {
    let value = completed.last().copied().unwrap_or(head);
    let activated = completed.iter().any(|id| matches!(graph.node(*id).op, Op::Activation(_) | Op::Clip));
    let is_layer = graph.node(head).op.has_weight();
    let consumers = graph.consumers(value);
    let only_added = !consumers.is_empty() && consumers.iter().all(|c| graph.node(*c).op == Op::Add);
    let quantized = match graph.node(head).placement {
        Placement::ByRule => {
            let only_summed = is_layer && !activated && only_added;
            !only_summed && !reaches_output(graph, value)
        }
        Placement::Always => true,
        Placement::Never => false,
    };
    quantized.then_some(value)
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
