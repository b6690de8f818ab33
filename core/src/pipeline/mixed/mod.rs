//! Mixed precision: bits for each layer, chosen from what each layer alone loses.

mod groups;
mod knapsack;

use super::cost::network_cost;
use super::{Sensitivity, Session, SitePlan, Subject};
use crate::error::{Error, Result};
use crate::graph::{Graph, SiteKind};
use crate::recipe::{Budget, ChosenBits, MixedRecipe, Recipe};
use groups::{groups, Alternative};
use knapsack::{best_choices, Choice};
use std::collections::HashMap;

/// What a site alone loses at so many bits.
type Losses<'a> = &'a dyn Fn(&SitePlan, u32) -> Result<f64>;

impl Session<'_> {
    /// Whether the choice of bits needs to know what this part of the network alone loses: it does of single layers, and, if the
    /// budget counts operations, of single values.
    pub fn chooses(&self, mixed: &MixedRecipe, subject: &Subject) -> bool {
        !subject.is_unit && mixed.chooses(subject.kind)
    }

    /// Chooses bits as `quant.mixed` of the recipe says: within the budget, the sum of what the sites alone lose is the smallest
    /// that is possible. Sites that have bits of their own from the setting or an override keep them, but they count. `sensitivities`
    /// are measurements at each of the choices. Returns the recipe with the chosen bits.
    ///
    /// The losses of single layers are added up, as HAWQ-V2 (arXiv 1911.03852) and others do; that layers together may lose more or
    /// less is not seen.
    ///
    /// # Errors
    /// No choice is within the budget (the error says the least that is possible), or a measurement is missing.
    pub fn choose_bits(&self, sensitivities: &[Sensitivity]) -> Result<Recipe> {
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

    /// Checks that bits can be chosen as `quant.mixed` of the recipe says, without measurements, or that those which were chosen are
    /// within its budget.
    ///
    /// # Errors
    /// No choice is within the budget, or what was chosen is not.
    pub fn check_budget(&self) -> Result<()> {
        let Some(mixed) = &self.recipe().quant.mixed else { return Ok(()) };
        let Some(taken) = self.taken()? else { return self.choose(&|_, _| Ok(0.0)).map(|_| ()) };
        let (is_within, taken) = taken;
        if is_within {
            return Ok(());
        }
        let message = format!("takes {taken}, more than '{}'; leave it out, and bits are chosen anew", mixed.target);
        Err(Error::setting("quant.mixed.chosen", message))
    }

    /// What the bits that were chosen take, in the words of the budget; `None` if none were chosen.
    ///
    /// # Errors
    /// A tensor cannot be made on the device.
    pub fn chosen_cost(&self) -> Result<Option<String>> {
        Ok(self.taken()?.map(|(_, text)| text))
    }

    /// Whether the chosen bits are within the budget, and what they take.
    fn taken(&self) -> Result<Option<(bool, String)>> {
        let mixed = self.recipe().quant.mixed.as_ref().filter(|mixed| mixed.chosen.is_some());
        let Some(budget) = mixed.map(|mixed| mixed.target.budget()) else { return Ok(None) };
        Ok(Some(match budget {
            Budget::AverageBits(bits) => {
                let plans = self.plans()?;
                let weights = || free_weights(self.graph(), &plans);
                let sum: usize = weights().map(|(elements, bits)| elements * bits as usize).sum();
                let mean = sum as f64 / weights().map(|(elements, _)| elements).sum::<usize>().max(1) as f64;
                (mean <= bits * ROUNDED_UP, format!("{mean:.3} bits on average"))
            }
            Budget::Size(bytes) => {
                let taken = self.cost()?.bytes;
                (taken <= bytes, format!("{:.3} MB", taken as f64 / 1e6))
            }
            Budget::Operations(percent) => {
                let taken = self.cost()?.percent_of_w8a8;
                (taken <= percent * ROUNDED_UP, format!("{taken:.2} % of w8a8 MACs x bits"))
            }
        }))
    }

    fn choose(&self, losses: Losses<'_>) -> Result<Recipe> {
        let mut recipe = self.recipe().clone();
        let Some(mixed) = &mut recipe.quant.mixed else { return Ok(recipe) };
        let model = self.zero_model()?;
        let (graph, plans) = (model.graph(), self.plans_of(model.graph())?);
        let groups = groups(graph, &plans, mixed, losses)?;
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
        let mut all = ChosenBits::default();
        for (place, bits) in chosen {
            let site = &plans[place].site;
            let of_kind = match site.kind {
                SiteKind::Weight => &mut all.weight,
                SiteKind::Activation => &mut all.activation,
            };
            of_kind.insert(site.name.clone(), bits);
        }
        mixed.chosen = Some(all);
        Ok(recipe)
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
                let count: usize = free_weights(graph, &plans).map(|(elements, _)| elements).sum();
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

/// Elements and bits of each weight whose bits are chosen.
fn free_weights<'a>(graph: &'a Graph, plans: &'a [SitePlan]) -> impl Iterator<Item = (usize, u32)> + 'a {
    let free = plans.iter().filter(|plan| plan.common_bits && plan.site.kind == SiteKind::Weight);
    free.filter_map(|plan| Some((graph.weight_shape(plan.site.node)?.iter().product(), plan.spec.bits)))
}

/// A budget that is exactly met must not be missed by the rounding of its computation.
const ROUNDED_UP: f64 = 1.0 + 1e-12;
