//! Mixed precision: bits for each layer, chosen from what each layer alone loses.

mod groups;
mod knapsack;

use super::cost::network_cost;
use super::{plan_sites, Sensitivity, Session, SitePlan, Subject};
use crate::error::{Error, Result};
use crate::graph::SiteKind;
use crate::recipe::{Budget, MixedRecipe, Override, Recipe, TensorOverride};
use groups::{groups, Alternative};
use knapsack::best_choices;
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
    /// What the choice of bits needs to know of the network: the single layers whose bits are chosen, and, if the budget counts
    /// operations, the single values.
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
        // What is not chosen, as if the chosen bits were none.
        let least: Vec<&Alternative> = groups.iter().filter_map(|g| g.iter().min_by_key(|a| a.choice.cost)).collect();
        for (place, bits) in least.iter().flat_map(|alternative| &alternative.bits) {
            plans[*place].spec.bits = *bits;
        }
        let smallest = network_cost(graph, &plans)?;
        let chosen_least: u64 = least.iter().map(|alternative| alternative.choice.cost).sum();
        let elements = plans.iter().filter(|p| p.common_bits && p.site.kind == SiteKind::Weight);
        let elements: usize =
            elements.map(|p| super::cost::weight_shape(graph, p.site.node).iter().product::<usize>()).sum();
        let head: u64 =
            self.head_parameters().iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64).sum();
        let (budget, possible) = match mixed.target.budget() {
            Budget::AverageBits(bits) => {
                let least = chosen_least as f64 / elements as f64;
                // Of so many bits none is lost to rounding.
                ((bits * elements as f64 * (1.0 + 1e-12)).floor() as u64, format!("{least:.2} bits"))
            }
            Budget::Size(bytes) => {
                let smallest = smallest.bytes + head;
                (bytes.saturating_sub(smallest - chosen_least), format!("{:.3} MB", smallest as f64 / 1e6))
            }
            Budget::Operations(percent) => {
                let all = 100.0 * smallest.bit_operations / smallest.percent_of_w8a8;
                let others = smallest.bit_operations - chosen_least as f64;
                let left = (all * percent / 100.0 * (1.0 + 1e-12) - others).max(0.0);
                (left as u64, format!("{:.2} % of w8a8", smallest.percent_of_w8a8))
            }
        };
        let costs: Vec<Vec<_>> =
            groups.iter().map(|g| g.iter().map(|alternative| alternative.choice).collect()).collect();
        let choices = if chosen_least > budget { None } else { best_choices(&costs, budget) };
        let too_small = || {
            let message = format!(
                "the network takes {possible} at least, with the smallest of `choices` everywhere that bits are chosen, more than \
                 '{}'",
                mixed.target
            );
            Error::setting("quant.mixed.target", message)
        };
        let choices = choices.ok_or_else(too_small)?;
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
}

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
