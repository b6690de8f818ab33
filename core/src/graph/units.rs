//! Units: the parts of a network that are reconstructed one after the other.

use super::{Graph, NodeId, Subgraph};
use crate::error::{Error, Result};
use globset::Glob;

/// Nodes that are reconstructed together.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Name for reports, such as "layer1.0".
    pub name: String,
    /// Its nodes, the values that they read, and those of their values that are read outside.
    pub subgraph: Subgraph,
}

impl Unit {
    /// Makes a unit of some nodes of a graph.
    ///
    /// # Errors
    /// The unit reads no value from outside, or nothing outside reads a value of it.
    pub(super) fn new(graph: &Graph, name: String, nodes: impl IntoIterator<Item = NodeId>) -> Result<Self> {
        let subgraph = graph.subgraph(nodes);
        if subgraph.inputs().is_empty() {
            return Err(Error::graph(name, "a unit reads at least one value from outside, this one reads none"));
        }
        if subgraph.outputs().is_empty() {
            return Err(Error::graph(name, "nothing outside of this unit reads a value of it"));
        }
        Ok(Self { name, subgraph })
    }

    /// Its nodes in topological order.
    pub fn nodes(&self) -> &[NodeId] {
        self.subgraph.nodes()
    }
}

/// Name of the unit that is the whole network.
pub const NETWORK: &str = "network";

/// Makes the whole network one unit.
///
/// # Errors
/// The network has no node besides its input.
pub fn network_unit(graph: &Graph) -> Result<Unit> {
    Unit::new(graph, NETWORK.into(), graph.nodes().skip(1).map(|(id, _)| id))
}

/// Multiply-accumulates of each unit, relative to their mean.
pub fn unit_costs(graph: &Graph, units: &[Unit]) -> Vec<f64> {
    let macs = |unit: &Unit| unit.nodes().iter().map(|id| graph.macs(*id)).sum::<u64>() as f64;
    let macs: Vec<f64> = units.iter().map(macs).collect();
    let mean = macs.iter().sum::<f64>() / macs.len().max(1) as f64;
    macs.iter().map(|macs| if mean > 0.0 { macs / mean } else { 1.0 }).collect()
}

/// Makes every layer (a convolution or linear layer, with the activation function if that is its only reader) a
/// unit of its own, as AdaRound does (arXiv 2004.10568).
///
/// # Errors
/// Nothing reads the value of a layer.
pub fn layer_units(graph: &Graph) -> Result<Vec<Unit>> {
    let layers = graph.nodes().filter(|(_, n)| n.op.has_weight());
    layers.map(|(id, node)| Unit::new(graph, node.name.clone(), [vec![id], graph.completion(id)].concat())).collect()
}

/// Merges neighbouring units. Each group lists the units of one larger unit, by name or by a glob pattern such as
/// `layer3.*`. Nodes between them become part of it. `path` is the place of the groups in the recipe, for messages.
///
/// # Errors
/// A pattern is malformed or matches no unit; a group has fewer than two units or units that are not neighbours; a
/// unit belongs to two groups.
pub fn merge_units(graph: &Graph, units: Vec<Unit>, groups: &[Vec<String>], path: &str) -> Result<Vec<Unit>> {
    // The group of each unit, if it has one.
    let mut group_of: Vec<Option<usize>> = vec![None; units.len()];
    for (g, patterns) in groups.iter().enumerate() {
        let path = format!("{path}[{g}]");
        for pattern in patterns {
            let glob = Glob::new(pattern).map_err(|e| Error::setting(&path, e))?.compile_matcher();
            let mut matched = units.iter().enumerate().filter(|(_, u)| glob.is_match(&u.name)).peekable();
            if matched.peek().is_none() {
                let known: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
                let message = format!("'{pattern}' matches no unit of the network; its units: {}", known.join(", "));
                return Err(Error::setting(path, message));
            }
            for (i, unit) in matched {
                if group_of[i].is_some_and(|other| other != g) {
                    return Err(Error::setting(path, format!("unit '{}' is in two groups", unit.name)));
                }
                group_of[i] = Some(g);
            }
        }
        let members: Vec<usize> = (0..units.len()).filter(|i| group_of[*i] == Some(g)).collect();
        let (Some(first), Some(last)) = (members.first(), members.last()) else { continue };
        if members.len() < 2 {
            return Err(Error::setting(
                path,
                format!("there is only '{}'; name two units at least", units[*first].name),
            ));
        }
        if let Some(gap) = (*first..*last).find(|i| group_of[*i] != Some(g)) {
            let message = format!("its units are not neighbours: '{}' lies between them", units[gap].name);
            return Err(Error::setting(path, message));
        }
    }
    let taken: Vec<NodeId> = units.iter().flat_map(|u| u.nodes()).copied().collect();
    let mut merged: Vec<(Option<usize>, String, Vec<NodeId>)> = Vec::new();
    for (unit, group) in units.into_iter().zip(group_of) {
        match merged.last_mut() {
            Some((same, name, nodes)) if group.is_some() && *same == group => {
                let between = nodes.last().zip(unit.nodes().first()).map(|(last, first)| (last.0 + 1)..first.0);
                nodes.extend(between.into_iter().flatten().map(NodeId).filter(|id| !taken.contains(id)));
                nodes.extend(unit.nodes());
                *name = format!("{name}+{}", unit.name);
            }
            _ => merged.push((group, unit.name.clone(), unit.nodes().to_vec())),
        }
    }
    merged.into_iter().map(|(_, name, nodes)| Unit::new(graph, name, nodes)).collect()
}
