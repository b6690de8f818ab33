//! The units of an imported network.

use globset::Glob;
use qdrop_core::graph::find_units;
use qdrop_core::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Units by name, each with the names or patterns of its layers.
pub type Groups = BTreeMap<String, Vec<String>>;

/// The units of a graph: those that are set, and for all other layers those that are found.
///
/// # Errors
/// A pattern is malformed or matches no layer, or a layer is in two groups.
pub fn of(graph: &Graph, groups: &Groups) -> Result<Vec<(String, Vec<NodeId>)>> {
    let mut units = find_units(graph);
    let mut taken: HashSet<NodeId> = HashSet::new();
    let mut set = Vec::new();
    for (name, patterns) in groups {
        let path = format!("model.architecture.params.units.{name}");
        let mut layers = BTreeSet::new();
        for pattern in patterns {
            let glob = Glob::new(pattern).map_err(|e| Error::setting(&path, e))?.compile_matcher();
            let all = graph.nodes().filter(|(_, node)| node.op.has_weight());
            let matched: Vec<NodeId> = all.filter(|(_, node)| glob.is_match(&node.name)).map(|(id, _)| id).collect();
            if matched.is_empty() {
                return Err(Error::setting(path, format!("'{pattern}' matches no layer of the network")));
            }
            layers.extend(matched);
        }
        if let Some(twice) = layers.iter().find(|id| !taken.insert(**id)) {
            return Err(Error::setting(path, format!("'{}' is in two units", graph.node(*twice).name)));
        }
        set.push((name.clone(), closed(graph, &layers)));
    }
    let inside: HashSet<NodeId> = set.iter().flat_map(|(_, nodes)| nodes).copied().collect();
    for (name, nodes) in &mut units {
        if nodes.iter().any(|id| inside.contains(id)) {
            nodes.clear();
            name.clear();
        }
    }
    units.retain(|(_, nodes)| !nodes.is_empty());
    let covered: HashSet<NodeId> = units.iter().flat_map(|(_, nodes)| nodes).chain(&inside).copied().collect();
    // Layers of a unit that was found and is partly in one that was set.
    for (id, node) in graph.nodes().filter(|(id, node)| node.op.has_weight() && !covered.contains(id)) {
        units.push((node.name.clone(), closed(graph, &BTreeSet::from([id]))));
    }
    units.extend(set);
    units.sort_by_key(|(_, nodes)| nodes.first().copied());
    Ok(units)
}

/// The layers, what lies on the ways between them, and the normalizations and activation functions that complete it.
fn closed(graph: &Graph, layers: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let mut after = layers.clone();
    for (id, node) in graph.nodes() {
        if node.inputs.iter().any(|input| after.contains(input)) {
            after.insert(id);
        }
    }
    let mut nodes = layers.clone();
    let all: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    for id in all.iter().rev() {
        if after.contains(id) && graph.consumers(*id).iter().any(|reader| nodes.contains(reader)) {
            nodes.insert(*id);
        }
    }
    for id in all {
        let node = graph.node(id);
        let only = node.inputs.first().is_some_and(|input| nodes.contains(input) && graph.consumers(*input) == [id]);
        if node.op.completes_layer() && only {
            nodes.insert(id);
        }
    }
    nodes.into_iter().collect()
}
