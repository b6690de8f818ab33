//! The names that checkpoints of detectors use.

use qdrop_core::prelude::*;

/// Names of a head's layers: those here, and those of each family's checkpoints.
pub struct HeadNames {
    pub own: &'static str,
    pub mmdet: &'static str,
    pub torchvision: &'static str,
    /// torchvision's before 0.13.
    pub older: &'static str,
}

/// The key maps of all checkpoints.
pub fn key_maps(graph: &Graph, head: &[HeadNames]) -> Vec<KeyMap> {
    let nodes: Vec<&str> = graph.nodes().map(|(_, node)| node.name.as_str()).collect();
    let map = |body: &dyn Fn(&str) -> String, of_head: fn(&HeadNames) -> &'static str| {
        let body = nodes.iter().map(|node| (node.to_string(), body(node)));
        KeyMap::of_nodes(body.chain(head.iter().map(|names| (names.own.into(), of_head(names).into()))))
    };
    vec![
        map(&mmdet, |names| names.mmdet),
        map(&|node| torchvision(node, ".0"), |names| names.torchvision),
        map(&|node| torchvision(node, ""), |names| names.older),
    ]
}

/// The number after a dot, if the name begins so.
fn numbered<'a>(node: &'a str, before: &str) -> Option<&'a str> {
    node.strip_prefix(before)?.strip_prefix('.')
}

fn mmdet(node: &str) -> String {
    if let Some(i) = numbered(node, "lateral") {
        return format!("neck.lateral_convs.{i}.conv");
    }
    // The convolutions on top are numbered after the three of the stages.
    let output = numbered(node, "output").or(match node {
        "p6" => Some("3"),
        "p7" => Some("4"),
        _ => None,
    });
    match output {
        Some(i) => format!("neck.fpn_convs.{i}.conv"),
        None => format!("backbone.{node}"),
    }
}

/// `layer` stands behind the name of a convolution that is a layer of its block.
fn torchvision(node: &str, layer: &str) -> String {
    match (numbered(node, "lateral"), numbered(node, "output")) {
        (Some(i), _) => format!("backbone.fpn.inner_blocks.{i}{layer}"),
        (_, Some(i)) => format!("backbone.fpn.layer_blocks.{i}{layer}"),
        _ if matches!(node, "p6" | "p7") => format!("backbone.fpn.extra_blocks.{node}"),
        _ => format!("backbone.body.{node}"),
    }
}
