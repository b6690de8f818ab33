//! What a quantized network takes: bytes of its parameters, and bit operations.

use super::{Session, SitePlan};
use crate::error::Result;
use crate::graph::{Graph, NodeId, SiteKind};
use crate::grid::QuantSpec;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Bits of a value or a weight without a quantizer.
pub(super) const FLOAT_BITS: u32 = 32;
/// Bits of an image, which has no quantizer but comes from a byte for each channel.
const IMAGE_BITS: u32 = 8;

/// What a quantized network takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkCost {
    /// Bytes of all parameters: integers of quantized weights without gaps, scales, zero points, and what stays in floating point,
    /// such as biases. A packed file holds a description of a few kilobytes beside them.
    pub bytes: u64,
    /// The same of the float network, with 4 bytes for each parameter.
    pub float_bytes: u64,
    /// Bit operations for one image: the sum over all layers of multiply-accumulates x bits of the weight x bits of the value that
    /// the layer reads. An image counts with 8 bits, floating point with 32, and a value without a quantizer that comes from
    /// quantized ones, such as their mean, with theirs.
    pub bit_operations: f64,
    /// The same in percent of what it is with 8 bits everywhere.
    pub percent_of_w8a8: f64,
}

impl Session<'_> {
    /// What the network takes, quantized as the recipe says. Weights and images need not be given.
    ///
    /// # Errors
    /// A tensor cannot be made on the device.
    pub fn cost(&self) -> Result<NetworkCost> {
        let model = self.zero_model()?;
        let plans = self.plans_of(model.graph())?;
        let mut cost = network_cost(model.graph(), &plans)?;
        let head = self.head_bytes();
        cost.bytes += head;
        cost.float_bytes += head;
        Ok(cost)
    }

    /// Bytes of the head's parameters, which are not quantized.
    pub(super) fn head_bytes(&self) -> u64 {
        self.head_parameters().iter().map(|(_, shape)| 4 * count(shape)).sum()
    }
}

/// The cost of a network without batch normalization.
pub(super) fn network_cost(graph: &Graph, plans: &[SitePlan]) -> Result<NetworkCost> {
    let bits = |kind: SiteKind| -> HashMap<NodeId, u32> {
        plans.iter().filter(|p| p.site.kind == kind).map(|p| (p.site.node, p.spec.bits)).collect()
    };
    let (weights, activations) = (bits(SiteKind::Weight), bits(SiteKind::Activation));
    let (mut operations, mut of_w8a8) = (0.0, 0.0);
    for (id, _) in graph.nodes() {
        let macs = graph.macs(id) as f64;
        if macs > 0.0 {
            let read = reads(graph, id, &|id| activations.contains_key(&id));
            let read_bits = read.bits(|site| activations.get(&site).copied());
            operations += macs * f64::from(weights.get(&id).copied().unwrap_or(FLOAT_BITS)) * f64::from(read_bits);
            of_w8a8 += macs * 64.0;
        }
    }
    let all: u64 = graph.parameter_shapes().iter().map(|(_, shape)| 4 * count(shape)).sum();
    let mut bytes = all;
    for plan in plans {
        bytes += match plan.site.kind {
            SiteKind::Weight => {
                let shape = graph.weight_shape(plan.site.node).unwrap_or_default();
                bytes -= 4 * count(&shape);
                quantized_bytes(&shape, &plan.spec)? + grid_bytes(&shape, &plan.spec)?
            }
            SiteKind::Activation => {
                grid_bytes(&[&[1], graph.node(plan.site.node).shape.as_slice()].concat(), &plan.spec)?
            }
        };
    }
    let percent = if of_w8a8 > 0.0 { 100.0 * operations / of_w8a8 } else { 0.0 };
    Ok(NetworkCost { bytes, float_bytes: all, bit_operations: operations, percent_of_w8a8: percent })
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64
}

/// Bytes of the integers of a weight, and of its zero points, which have as many bits.
pub(super) fn quantized_bytes(shape: &[usize], spec: &QuantSpec) -> Result<u64> {
    let zero_points = if spec.symmetric { 0 } else { spec.granularity.channels(shape)?.count as u64 };
    let bits = u64::from(spec.bits);
    Ok((count(shape) * bits).div_ceil(8) + (zero_points * bits).div_ceil(8))
}

/// Bytes of the scales.
fn grid_bytes(shape: &[usize], spec: &QuantSpec) -> Result<u64> {
    Ok(4 * spec.granularity.channels(shape)?.count as u64)
}

/// What a layer reads.
pub(super) struct Reads {
    /// The quantized values from which its input is computed without another quantizer between.
    pub sites: BTreeSet<NodeId>,
    /// Bits of what it reads without a quantizer: 8 from the image, 32 from a layer, else 0.
    pub others: u32,
}

impl Reads {
    /// Bits of the input, the most of all that it is computed from.
    pub fn bits(&self, of_site: impl Fn(NodeId) -> Option<u32>) -> u32 {
        self.sites.iter().filter_map(|site| of_site(*site)).fold(self.others, u32::max)
    }
}

/// What the layer `id` reads; `is_site` says which values are quantized.
pub(super) fn reads(graph: &Graph, id: NodeId, is_site: &dyn Fn(NodeId) -> bool) -> Reads {
    let mut read = Reads { sites: BTreeSet::new(), others: 0 };
    let mut seen = BTreeSet::new();
    let mut open: Vec<NodeId> = graph.node(id).inputs.clone();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if is_site(id) {
            read.sites.insert(id);
        } else if id == graph.input() {
            read.others = read.others.max(IMAGE_BITS);
        } else if graph.node(id).op.has_weight() {
            read.others = FLOAT_BITS;
        } else {
            open.extend(&graph.node(id).inputs);
        }
    }
    read
}
