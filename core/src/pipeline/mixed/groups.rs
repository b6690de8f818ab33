//! Layers and values whose bits depend on each other, with all their possible bits.

use super::super::cost::{quantized_bytes, reads, Reads, FLOAT_BITS};
use super::super::SitePlan;
use super::knapsack::Choice;
use super::Losses;
use crate::error::Result;
use crate::graph::{Graph, NodeId, SiteKind};
use crate::grid::QuantSpec;
use crate::recipe::{Budget, MixedRecipe};
use std::collections::{BTreeMap, BTreeSet};

/// One possibility of a group.
pub struct Alternative {
    /// What it costs and loses.
    pub choice: Choice,
    /// Bits of each site whose bits are chosen, by its place among the plans.
    pub bits: Vec<(usize, u32)>,
}

/// The groups, each with its possibilities.
pub fn groups(
    graph: &Graph,
    plans: &[SitePlan],
    mixed: &MixedRecipe,
    losses: Losses<'_>,
) -> Result<Vec<Vec<Alternative>>> {
    let per_weight = |cost: &dyn Fn(&SitePlan, u32) -> Result<u64>| {
        let free = plans.iter().enumerate().filter(|(_, p)| p.common_bits && p.site.kind == SiteKind::Weight);
        let group = |(place, plan): (usize, &SitePlan)| {
            let alternative = |bits: &u32| {
                let choice = Choice { cost: cost(plan, *bits)?, loss: losses(plan, *bits)? };
                Ok(Alternative { choice, bits: vec![(place, *bits)] })
            };
            mixed.choices.iter().map(alternative).collect()
        };
        free.map(group).collect()
    };
    let shape = |plan: &SitePlan| graph.weight_shape(plan.site.node).unwrap_or_default();
    match mixed.target.budget() {
        Budget::AverageBits(_) => {
            per_weight(&|plan, bits| Ok(shape(plan).iter().product::<usize>() as u64 * u64::from(bits)))
        }
        Budget::Size(_) => per_weight(&|plan, bits| quantized_bytes(&shape(plan), &QuantSpec { bits, ..plan.spec })),
        Budget::Operations(_) => {
            let readers = readers(graph, plans);
            readers.iter().map(|group| group.alternatives(plans, mixed, losses)).collect()
        }
    }
}

/// Values that layers read together, which get the same bits, and all layers that read them.
#[derive(Default)]
struct Readers {
    /// Places of the values' plans whose bits are chosen.
    values: Vec<usize>,
    layers: Vec<Layer>,
}

/// A layer that counts.
struct Layer {
    macs: u64,
    weight: WeightBits,
    /// The most bits of what it reads that are not chosen.
    others: u32,
    /// Whether it reads a value whose bits are chosen.
    reads_chosen: bool,
}

/// The bits of a layer's weight.
enum WeightBits {
    /// They are chosen; the place of its plan.
    Chosen(usize),
    /// They are these.
    Given(u32),
}

/// Divides layers and values into groups whose operations do not depend on each other. Layers that nothing about is chosen are in none.
fn readers(graph: &Graph, plans: &[SitePlan]) -> Vec<Readers> {
    let place_of = |kind: SiteKind| -> BTreeMap<NodeId, usize> {
        plans.iter().enumerate().filter(|(_, p)| p.site.kind == kind).map(|(i, p)| (p.site.node, i)).collect()
    };
    let (weights, values) = (place_of(SiteKind::Weight), place_of(SiteKind::Activation));
    // The group of each value: of those that a layer reads together, the smallest.
    let mut group: BTreeMap<NodeId, NodeId> = values.keys().map(|id| (*id, *id)).collect();
    let layers: Vec<(NodeId, Reads)> = graph
        .nodes()
        .filter(|(id, _)| graph.macs(*id) > 0)
        .map(|(id, _)| (id, reads(graph, id, &|id| values.contains_key(&id))))
        .collect();
    for (_, read) in &layers {
        let joined: BTreeSet<NodeId> = read.sites.iter().filter_map(|id| group.get(id).copied()).collect();
        if let Some(first) = joined.first() {
            group.values_mut().filter(|own| joined.contains(own)).for_each(|own| *own = *first);
        }
    }
    let mut together: BTreeMap<NodeId, Readers> = BTreeMap::new();
    for (id, own) in &group {
        let own = together.entry(*own).or_default();
        own.values.extend(values.get(id).filter(|place| plans[**place].common_bits));
    }
    let mut alone = Vec::new();
    for (id, read) in layers {
        let is_chosen = |site: &NodeId| values.get(site).is_some_and(|i| plans[*i].common_bits);
        let fixed =
            read.bits(|site| values.get(&site).filter(|i| !plans[**i].common_bits).map(|i| plans[*i].spec.bits));
        let weight = match weights.get(&id) {
            Some(place) if plans[*place].common_bits => WeightBits::Chosen(*place),
            Some(place) => WeightBits::Given(plans[*place].spec.bits),
            None => WeightBits::Given(FLOAT_BITS),
        };
        let layer =
            Layer { macs: graph.macs(id), weight, others: fixed, reads_chosen: read.sites.iter().any(is_chosen) };
        match read.sites.first().and_then(|site| together.get_mut(group.get(site)?)) {
            Some(own) => own.layers.push(layer),
            // It reads no quantized value, so it depends on no other layer.
            None => alone.push(Readers { values: Vec::new(), layers: vec![layer] }),
        }
    }
    let is_chosen = |layer: &Layer| matches!(layer.weight, WeightBits::Chosen(_));
    let is_free = |group: &Readers| !group.values.is_empty() || group.layers.iter().any(is_chosen);
    alone.into_iter().chain(together.into_values()).filter(is_free).collect()
}

impl Readers {
    fn alternatives(&self, plans: &[SitePlan], mixed: &MixedRecipe, losses: Losses<'_>) -> Result<Vec<Alternative>> {
        let mut all = Vec::new();
        let none = [0];
        let choices = if self.values.is_empty() { &none[..] } else { &mixed.choices };
        for value_bits in choices {
            let loss = self.values.iter().map(|i| losses(&plans[*i], *value_bits)).sum::<Result<f64>>()?;
            let bits = self.values.iter().map(|i| (*i, *value_bits)).collect();
            let mut partial = vec![Alternative { choice: Choice { cost: 0, loss }, bits }];
            for layer in &self.layers {
                let read = if layer.reads_chosen { layer.others.max(*value_bits) } else { layer.others };
                let each = layer.macs * u64::from(read);
                let own: Vec<(Choice, Option<(usize, u32)>)> = match layer.weight {
                    WeightBits::Given(bits) => vec![(Choice { cost: each * u64::from(bits), loss: 0.0 }, None)],
                    WeightBits::Chosen(place) => {
                        let choice = |bits: &u32| {
                            let loss = losses(&plans[place], *bits)?;
                            Ok((Choice { cost: each * u64::from(*bits), loss }, Some((place, *bits))))
                        };
                        mixed.choices.iter().map(choice).collect::<Result<_>>()?
                    }
                };
                partial =
                    undominated(partial.iter().flat_map(|before| own.iter().map(|own| before.with(own))).collect());
            }
            all.extend(partial);
        }
        Ok(undominated(all))
    }
}

impl Alternative {
    fn with(&self, (choice, bits): &(Choice, Option<(usize, u32)>)) -> Self {
        let sum = Choice { cost: self.choice.cost + choice.cost, loss: self.choice.loss + choice.loss };
        Self { choice: sum, bits: self.bits.iter().copied().chain(*bits).collect() }
    }
}

/// Those that no cheaper one equals or beats, with growing cost.
fn undominated(mut all: Vec<Alternative>) -> Vec<Alternative> {
    all.sort_by(|a, b| a.choice.cost.cmp(&b.choice.cost).then(a.choice.loss.total_cmp(&b.choice.loss)));
    let mut best = f64::INFINITY;
    all.retain(|alternative| {
        let better = alternative.choice.loss < best;
        best = best.min(alternative.choice.loss);
        better
    });
    all
}
