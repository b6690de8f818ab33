//! Mixed precision: bits for each layer, chosen from what each layer alone loses.

mod groups;
mod knapsack;

use super::cost::network_cost;
use super::{plan_sites, Sensitivity, Session, SitePlan, Subject};
use crate::error::{Error, Result};
use crate::graph::{Graph, SiteKind};
use crate::recipe::{Budget, MixedRecipe, Override, Recipe, TensorOverride};
use groups::{groups, Alternative};
use knapsack::{best_choices, Choice};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Bits that were chosen for a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteBits {
    /// Name of the site.
    pub name: String,
    /// What is quantized.
    pub kind: SiteKind,
    /// Its bits.
    pub bits: u32,
}

/// What a site alone loses at so many bits.
type Losses<'a> = &'a dyn Fn(&SitePlan, u32) -> Result<f64>;

impl Session<'_> {
    /// Whether the choice of bits needs to know what this part of the network alone loses: it does of single layers, and, if the
    /// budget counts operations, of single values.
    pub fn chooses(&self, mixed: &MixedRecipe, subject: &Subject) -> bool {
        let activations = matches!(mixed.target.budget(), Budget::Operations(_));
        !subject.is_unit && (subject.kind == SiteKind::Weight || activations)
    }

    /// Chooses bits as `quant.mixed` of the recipe says: within the budget, the sum of what the sites alone lose is the smallest
    /// that is possible. Sites that have bits of their own from the setting or an override keep them, but they count. `sensitivities`
    /// are measurements at each of the choices. Returns the recipe in which the chosen bits are overrides, and the bits.
    ///
    /// The losses of single layers are added up, as HAWQ-V2 (arXiv 1911.03852) and others do; that layers together may lose more or
    /// less is not seen.
    ///
    /// # Errors
    /// No choice is within the budget (the error says the least that is possible), or a measurement is missing.
    pub fn choose_bits(&self, sensitivities: &[Sensitivity]) -> Result<(Recipe, Vec<SiteBits>)> {
        let metrics = self.task().deviation_metrics();
        let metric = metrics.first().ok_or_else(|| Error::message("the task measures no deviation"))?;
        let mut losses = HashMap::new();
        for Sensitivity { subject, bits, measured, .. } in sensitivities.iter().filter(|one| !one.subject.is_unit) {
            losses.insert((subject.kind, subject.name.as_str(), *bits), measured.value(metric)?);
        }
        self.choose(&|plan, bits| {
            let loss = losses.get(&(plan.site.kind, plan.site.name.as_str(), bits)).copied();
            let missing = || Error::graph(&plan.site.name, format!("what it loses at {bits} bits was not measured"));
            loss.filter(|loss| loss.is_finite()).ok_or_else(missing)
        })
    }

    /// Checks that bits can be chosen as `quant.mixed` of the recipe says, without measurements.
    ///
    /// # Errors
    /// No choice is within the budget.
    pub fn check_budget(&self) -> Result<()> {
        self.choose(&|_, _| Ok(0.0)).map(|_| ())
    }

    fn choose(&self, losses: Losses<'_>) -> Result<(Recipe, Vec<SiteBits>)> {
        let mut recipe = self.recipe().clone();
        let Some(mixed) = recipe.quant.mixed.take() else { return Ok((recipe, Vec::new())) };
        let model = self.zero_model()?;
        let (graph, mut plans) = (model.graph(), self.plans_of(model.graph())?);
        let groups = groups(graph, &plans, &mixed, losses)?;
        if groups.is_empty() {
            let message = "the setting and the overrides leave no layer whose bits could be chosen";
            return Err(Error::setting("quant.mixed", message));
        }
        let costs: Vec<Vec<Choice>> = groups.iter().map(|g| g.iter().map(|own| own.choice).collect()).collect();
        let (budget, least) = self.budget(mixed.target.budget(), graph, &plans, &groups)?;
        let too_small = || {
            let message = format!(
                "the network takes {least} at least, with the smallest of `choices` everywhere that bits are chosen, more than \
                 '{}'",
                mixed.target
            );
            Error::setting("quant.mixed.target", message)
        };
        let choices = budget.and_then(|budget| best_choices(&costs, budget)).ok_or_else(too_small)?;
        let mut chosen: Vec<(usize, u32)> = groups
            .iter()
            .zip(choices)
            .filter_map(|(g, i)| g.get(i))
            .flat_map(|alternative| alternative.bits.clone())
            .collect();
        chosen.sort_unstable();
        for (place, bits) in &chosen {
            plans[*place].spec.bits = *bits;
        }
        override_bits(&mut recipe, &plans, &chosen);
        // An override's pattern matches units too, which may have the name of one of their layers.
        let given = plan_sites(graph, &recipe.quant)?;
        if let Some((wanted, _)) = plans.iter().zip(&given).find(|(wanted, given)| wanted.spec != given.spec) {
            let message = "cannot have bits of its own, because a unit with other layers has its name";
            return Err(Error::graph(&wanted.site.name, message));
        }
        let site = |(place, bits): &(usize, u32)| {
            let site = &plans[*place].site;
            SiteBits { name: site.name.clone(), kind: site.kind, bits: *bits }
        };
        Ok((recipe, chosen.iter().map(site).collect()))
    }

    /// What the groups may cost in all, `None` if it is less than nothing, and the least that the network can take, for a message.
    fn budget(
        &self,
        budget: Budget,
        graph: &Graph,
        plans: &[SitePlan],
        groups: &[Vec<Alternative>],
    ) -> Result<(Option<u64>, String)> {
        let cheapest: Vec<&Alternative> =
            groups.iter().filter_map(|g| g.iter().min_by_key(|own| own.choice.cost)).collect();
        let of_groups: u64 = cheapest.iter().map(|own| own.choice.cost).sum();
        let mut plans = plans.to_vec();
        for (place, bits) in cheapest.iter().flat_map(|own| &own.bits) {
            plans[*place].spec.bits = *bits;
        }
        let smallest = network_cost(graph, &plans)?;
        Ok(match budget {
            Budget::AverageBits(bits) => {
                let weights = plans.iter().filter(|plan| plan.common_bits && plan.site.kind == SiteKind::Weight);
                let shapes = weights.filter_map(|plan| graph.weight_shape(plan.site.node));
                let count: usize = shapes.map(|shape| shape.iter().product::<usize>()).sum();
                let least = format!("{:.2} bits", of_groups as f64 / count as f64);
                (Some((bits * count as f64 * ROUNDED_UP) as u64), least)
            }
            Budget::Size(bytes) => {
                let smallest = smallest.bytes + self.head_bytes();
                (bytes.checked_sub(smallest - of_groups), format!("{:.3} MB", smallest as f64 / 1e6))
            }
            Budget::Operations(percent) => {
                let all = 100.0 * smallest.bit_operations / smallest.percent_of_w8a8;
                let left = all * percent / 100.0 * ROUNDED_UP - (smallest.bit_operations - of_groups as f64);
                ((left >= 0.0).then_some(left as u64), format!("{:.2} % of w8a8", smallest.percent_of_w8a8))
            }
        })
    }
}

/// A budget that is exactly met must not be missed by the rounding of its computation.
const ROUNDED_UP: f64 = 1.0 + 1e-12;

/// Writes chosen bits as overrides, one for each name.
fn override_bits(recipe: &mut Recipe, plans: &[SitePlan], chosen: &[(usize, u32)]) {
    let mut overrides: Vec<(&str, Override)> = Vec::new();
    for (place, bits) in chosen {
        let site = &plans[*place].site;
        let own = match overrides.iter().position(|(name, _)| *name == site.name) {
            Some(i) => i,
            None => {
                let pattern = globset::escape(&site.name);
                let (weight, activation) = (TensorOverride::default(), TensorOverride::default());
                overrides.push((&site.name, Override { pattern, float: false, weight, activation }));
                overrides.len() - 1
            }
        };
        let change = match site.kind {
            SiteKind::Weight => &mut overrides[own].1.weight,
            SiteKind::Activation => &mut overrides[own].1.activation,
        };
        change.bits = Some(*bits);
    }
    // Before the overrides that give layers other strategies, whose bits are not chosen.
    let chosen = overrides.into_iter().map(|(_, one)| one);
    recipe.quant.overrides.splice(0..0, chosen);
}
