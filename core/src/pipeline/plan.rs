//! What is quantized and how: the network's sites under the recipe's rules.

use crate::error::{Error, Result};
use crate::graph::{quantization_sites, Graph, Site, SiteKind};
use crate::grid::{Granularity, QuantSpec};
use crate::params::join;
use crate::recipe::{GranularityRecipe, Override, QuantRecipe, Setting, Strategy};
use globset::{Glob, GlobMatcher};

/// Bits of the layers that the settings keep at high precision.
const HIGH_BITS: u32 = 8;

/// One quantizer to be placed.
#[derive(Debug, Clone)]
pub struct SitePlan {
    /// Where.
    pub site: Site,
    /// The grid.
    pub spec: QuantSpec,
    /// The observer, and where the recipe names it.
    pub observer: (Strategy, String),
    /// The quantizer, and where the recipe names it.
    pub quantizer: (Strategy, String),
}

/// Applies setting and overrides to the sites of a network.
///
/// # Errors
/// An override's glob is malformed or matches nothing.
pub fn plan_sites(graph: &Graph, quant: &QuantRecipe) -> Result<Vec<SitePlan>> {
    let matchers = quant.overrides.iter().enumerate().map(|(i, o)| matcher(i, o)).collect::<Result<Vec<_>>>()?;
    let mut used = vec![false; matchers.len()];
    let mut plans = Vec::new();
    for site in quantization_sites(graph) {
        let unit = graph.units().iter().find(|u| u.nodes.contains(&site.node)).map(|u| u.name.as_str());
        let mut plan = Some(base_plan(site, quant));
        for (i, (o, matcher)) in quant.overrides.iter().zip(&matchers).enumerate() {
            let Some(current) = &mut plan else { break };
            if !matcher.is_match(&current.site.name) && !unit.is_some_and(|u| matcher.is_match(u)) {
                continue;
            }
            used[i] = true;
            let (kind, change) = match current.site.kind {
                SiteKind::Weight => ("weight", &o.weight),
                SiteKind::Activation => ("activation", &o.activation),
            };
            let path = format!("quant.overrides[{i}].{kind}");
            current.spec.bits = change.bits.unwrap_or(current.spec.bits);
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
        None => Ok(plans),
    }
}

fn matcher(index: usize, o: &Override) -> Result<GlobMatcher> {
    let glob = Glob::new(&o.pattern).map_err(|e| Error::setting(format!("quant.overrides[{index}].match"), e))?;
    Ok(glob.compile_matcher())
}

fn base_plan(site: Site, quant: &QuantRecipe) -> SitePlan {
    let (path, tensor, axis) = match site.kind {
        SiteKind::Weight => ("quant.weight", &quant.weight, 0),
        SiteKind::Activation => ("quant.activation", &quant.activation, 1),
    };
    let high = match site.kind {
        SiteKind::Weight => site.first || site.last,
        SiteKind::Activation => site.last || (site.first && quant.setting == Setting::Brecq),
    };
    let granularity = match tensor.granularity {
        GranularityRecipe::PerTensor => Granularity::PerTensor,
        GranularityRecipe::PerChannel => Granularity::PerAxis(axis),
    };
    let bits = if high { HIGH_BITS } else { tensor.bits };
    SitePlan {
        site,
        spec: QuantSpec { bits, symmetric: tensor.symmetric, granularity },
        observer: (tensor.observer.clone(), join(path, "observer")),
        quantizer: (tensor.quantizer.clone(), join(path, "quantizer")),
    }
}
