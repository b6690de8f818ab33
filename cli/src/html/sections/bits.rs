//! Bits that were chosen for single layers.

use super::super::chart::{Bar, BarChart};
use super::super::record::Record;
use super::super::words::megabytes;
use maud::{html, Markup};
use qdrop_core::graph::SiteKind;
use qdrop_core::recipe::MixedRecipe;

/// The chosen bits, if the recipe asks for them.
pub fn section(record: &Record) -> Markup {
    let Some(MixedRecipe { target, choices, chosen: Some(chosen), .. }) = &record.recipe.quant.mixed else {
        return html! {};
    };
    let of = |kind: SiteKind| {
        let bars = chosen.of(kind).iter().map(|(name, bits)| Bar::new(name, f64::from(*bits), None));
        BarChart::new(format!("Bits of {}s", kind.name()), "bits", bars.collect())
    };
    let charts = [SiteKind::Weight, SiteKind::Activation].map(of);
    html! {
        h2 { "Chosen bits" }
        p {
            "Target: " (target) ", chosen from " (choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            " bits, so that the sum of what the layers alone lose is as small as possible."
            @if let Ok(cost) = &record.cost {
                " The network takes " (megabytes(cost.bytes)) " and " (format!("{:.1}", cost.percent_of_w8a8)) " % of the bit operations of w8a8."
            }
        }
        div class="charts" { @for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) { (chart.figure()) } }
    }
}
