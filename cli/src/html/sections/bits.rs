//! Bits that were chosen for single layers.

use super::super::chart::{Bar, BarChart};
use super::super::record::Record;
use super::super::words::megabytes;
use maud::{html, Markup};
use qdrop_core::graph::SiteKind;

/// The chosen bits, if the recipe asked for them.
pub fn section(record: &Record) -> Markup {
    let Some(chosen) = &record.chosen else { return html! {} };
    let of = |kind: SiteKind, what: &str| {
        let bars = chosen.bits.iter().filter(|site| site.kind == kind);
        let bars = bars.map(|site| Bar { name: site.name.clone(), value: f64::from(site.bits), error: None, group: 0 });
        BarChart {
            title: format!("Bits of {what}"),
            x: "bits".into(),
            log_x: false,
            groups: Vec::new(),
            bars: bars.collect(),
        }
    };
    let charts = [of(SiteKind::Weight, "weights"), of(SiteKind::Activation, "activations")];
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
