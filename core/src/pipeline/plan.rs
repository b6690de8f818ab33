//! Plans which sites of a network are quantized, and how, from the recipe.

use crate::error::{Error, Result};
use crate::graph::{quantization_sites, Graph, Site, SiteKind};
use crate::grid::{Granularity, QuantSpec};
use crate::params::join;
use crate::recipe::{GranularityRecipe, Override, QuantRecipe, Setting, Strategy};
use globset::{Glob, GlobMatcher};

/// Bits of the layers that the recipe's `setting` keeps at high precision.
const HIGH_BITS: u32 = 8;

/// A planned quantizer.
#[derive(Debug, Clone)]
pub struct SitePlan {
    /// The site.
    pub site: Site,
    /// The grid.
    pub spec: QuantSpec,
    /// Whether its bits are those of all sites of its kind, or chosen: neither the setting nor an override gives it others.
    pub common_bits: bool,
    /// The observer, and its place in the recipe.
    pub observer: (Strategy, String),
    /// The quantizer, and its place in the recipe.
    pub quantizer: (Strategy, String),
}

/// Applies the recipe's setting and overrides to the sites of a network.
///
/// # Errors
/// An override's glob is malformed or matches nothing, or bits that were chosen are not those of the network's layers.
pub fn plan_sites(graph: &Graph, quant: &QuantRecipe) -> Result<Vec<SitePlan>> {
    let matchers = quant.overrides.iter().enumerate().map(|(i, o)| matcher(i, o)).collect::<Result<Vec<_>>>()?;
    let mut used = vec![false; matchers.len()];
    let mut plans = Vec::new();
    for site in quantization_sites(graph) {
        let chosen =
            quant.mixed.as_ref().and_then(|mixed| mixed.chosen.as_ref()?.of(site.kind).get(&site.name)).copied();
        let unit = graph.units().iter().find(|u| u.subgraph.contains(site.node)).map(|u| u.name.as_str());
        let name = site.name.clone();
        let mut plan = Some(base_plan(site, quant, chosen));
        for (i, (o, matcher)) in quant.overrides.iter().zip(&matchers).enumerate() {
            if !matcher.is_match(&name) && !unit.is_some_and(|u| matcher.is_match(u)) {
                continue;
            }
            used[i] = true;
            // It stays in floating point.
            let Some(current) = &mut plan else { continue };
            let (kind, change) = match current.site.kind {
                SiteKind::Weight => ("weight", &o.weight),
                SiteKind::Activation => ("activation", &o.activation),
            };
            let path = format!("quant.overrides[{i}].{kind}");
            current.spec.bits = change.bits.unwrap_or(current.spec.bits);
            current.common_bits &= change.bits.is_none();
            if let Some(observer) = &change.observer {
                current.observer = (observer.clone(), join(&path, "observer"));
            }
            if let Some(quantizer) = &change.quantizer {
                current.quantizer = (quantizer.clone(), join(&path, "quantizer"));
            }
            if o.float || change.float {
                plan = None;
            }
        }
        plans.extend(plan);
    }
    match used.iter().position(|u| !u) {
        Some(i) => {
            let message = format!("'{}' matches no unit or layer of the network", quant.overrides[i].pattern);
            Err(Error::setting(format!("quant.overrides[{i}].match"), message))
        }
        None => {
            check_chosen(quant, &plans)?;
            Ok(plans)
        }
    }
}

/// Checks that the chosen bits are those of all layers that get them neither from the setting nor from an override, and of no others.
fn check_chosen(quant: &QuantRecipe, plans: &[SitePlan]) -> Result<()> {
    let Some((mixed, chosen)) = quant.mixed.as_ref().and_then(|mixed| Some((mixed, mixed.chosen.as_ref()?))) else {
        return Ok(());
    };
    for kind in [SiteKind::Weight, SiteKind::Activation] {
        let of_kind = chosen.of(kind);
        let refused = |message: String| {
            let message = format!("{message}; leave out `chosen`, and bits are chosen anew");
            Err(Error::setting(format!("quant.mixed.chosen.{}", kind.name()), message))
        };
        let plan_of = |name: &str| plans.iter().find(|plan| plan.site.kind == kind && plan.site.name == name);
        for name in of_kind.keys() {
            match plan_of(name) {
                Some(plan) if plan.common_bits => {}
                Some(_) => return refused(format!("'{name}' gets its bits from the setting or an override")),
                None => return refused(format!("the network quantizes no {} of '{name}'", kind.name())),
            }
        }
        let missing =
            |plan: &&SitePlan| plan.site.kind == kind && plan.common_bits && !of_kind.contains_key(&plan.site.name);
        if let Some(plan) = plans.iter().find(missing).filter(|_| mixed.chooses(kind)) {
            return refused(format!("the bits of '{}' are missing", plan.site.name));
        }
    }
    Ok(())
}

fn matcher(index: usize, o: &Override) -> Result<GlobMatcher> {
    let glob = Glob::new(&o.pattern).map_err(|e| Error::setting(format!("quant.overrides[{index}].match"), e))?;
    Ok(glob.compile_matcher())
}

fn base_plan(site: Site, quant: &QuantRecipe, chosen: Option<u32>) -> SitePlan {
    let (path, tensor, axis) = match site.kind {
        SiteKind::Weight => ("quant.weight", &quant.weight, 0),
        SiteKind::Activation => ("quant.activation", &quant.activation, 1),
    };
    let high = match (site.kind, quant.setting) {
        (SiteKind::Weight, Setting::Qdrop | Setting::Brecq) => site.first || site.last,
        (SiteKind::Activation, Setting::Qdrop) => site.last,
        (SiteKind::Activation, Setting::Brecq) => site.first || site.last,
        (SiteKind::Weight, Setting::FirstWeight) => site.first,
        (SiteKind::Activation, Setting::FirstWeight) => false,
    };
    let granularity = match tensor.granularity {
        GranularityRecipe::PerTensor => Granularity::PerTensor,
        GranularityRecipe::PerChannel => Granularity::PerAxis(axis),
    };
    let bits = if high { HIGH_BITS } else { chosen.unwrap_or(tensor.bits) };
    SitePlan {
        site,
        spec: QuantSpec { bits, symmetric: tensor.symmetric, granularity },
        common_bits: !high,
        observer: (tensor.observer.clone(), join(path, "observer")),
        quantizer: (tensor.quantizer.clone(), join(path, "quantizer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv2d, GraphBuilder};
    use crate::recipe::Recipe;
    use std::path::Path;

    fn graph() -> Graph {
        let mut b = GraphBuilder::new([3, 8, 8]);
        let mut x = b.input();
        for i in 0..4 {
            x = b
                .unit(&format!("block{i}"), |b| {
                    let x = b.conv2d(&format!("conv{i}"), x, Conv2d::new(4, 3).padding(1))?;
                    b.relu(&format!("relu{i}"), x)
                })
                .unwrap();
        }
        let x = b.global_average_pool("pool", x).unwrap();
        let x = b.flatten("flatten", x).unwrap();
        let x = b.unit("fc", |b| b.linear("fc", x, 10)).unwrap();
        b.finish(x).unwrap()
    }

    /// Bits of the weights and of the activations.
    fn bits(setting: &str, overrides: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let tensor = "granularity: per_tensor, observer: minmax, quantizer: fixed";
        let text = format!(
            "{{name: t, model: {{architecture: a}}, data: d, reconstruction: none, quant: {{setting: {setting}, \
             weight: {{bits: 2, {tensor}}}, activation: {{bits: 4, {tensor}}}, overrides: {overrides}}}}}"
        );
        let recipe = Recipe::from_yaml(&text, Path::new("t.yaml"))?;
        let plans = plan_sites(&graph(), &recipe.quant)?;
        let of = |kind| plans.iter().filter(|p| p.site.kind == kind).map(|p| p.spec.bits).collect();
        Ok((of(SiteKind::Weight), of(SiteKind::Activation)))
    }

    #[test]
    fn the_settings_keep_their_layers_at_8_bits() {
        assert_eq!(bits("qdrop", "[]").unwrap(), (vec![8, 2, 2, 2, 8], vec![4, 4, 4, 8]));
        assert_eq!(bits("brecq", "[]").unwrap(), (vec![8, 2, 2, 2, 8], vec![8, 4, 4, 8]));
        assert_eq!(bits("first_weight", "[]").unwrap(), (vec![8, 2, 2, 2, 2], vec![4; 4]));
    }

    #[test]
    fn overrides_match_units_and_layers_and_the_last_wins() {
        let all =
            "[{match: \"block*\", weight: {bits: 3}}, {match: conv1, weight: {bits: 5}, activation: {float: true}}]";
        assert_eq!(bits("qdrop", all).unwrap(), (vec![3, 5, 3, 3, 8], vec![4, 4, 8]));
        assert_eq!(bits("qdrop", "[{match: block2, float: true}]").unwrap(), (vec![8, 2, 2, 8], vec![4, 4, 8]));
        let error = bits("qdrop", "[{match: \"[\", float: true}]").unwrap_err().to_string();
        assert!(error.starts_with("quant.overrides[0].match"), "{error}");
    }
}
