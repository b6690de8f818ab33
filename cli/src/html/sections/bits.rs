//! Bits that were chosen for single layers.

use super::super::chart::{Bar, BarChart};
use super::super::record::Record;
use super::super::words::megabytes;
use maud::{html, Markup};
use qdrop_core::graph::SiteKind;

/// The chosen bits, if the recipe asked for them.
pub fn section(record: &Record) -> Markup {
    let Some(chosen) = &record.chosen else { return html! {} };
    let of = |kind: SiteKind| {
        let bars = chosen.bits.iter().filter(|site| site.kind == kind);
        let bars = bars.map(|site| Bar::new(&site.name, f64::from(site.bits), None));
        BarChart::new(format!("Bits of {}s", kind.name()), "bits", bars.collect())
    };
    let charts = [SiteKind::Weight, SiteKind::Activation].map(of);
    html! {
        h2 { "Chosen bits" }
        p {
            "Target: " (chosen.target) ", chosen from " (chosen.choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            " bits, so that the sum of what the layers alone lose is as small as possible. The network takes "
            (megabytes(chosen.cost.bytes)) " and " (format!("{:.1}", chosen.cost.percent_of_w8a8)) " % of the bit operations of w8a8."
        }
        div class="charts" { @for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) { (chart.figure()) } }
    }
}
