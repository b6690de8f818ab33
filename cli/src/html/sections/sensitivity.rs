//! What layers and units alone lose.

use super::super::chart::{Bar, BarChart};
use super::super::record::Record;
use super::super::words::{number, table};
use super::sites::suspicious;
use crate::kept::Analysis;
use maud::{html, Markup};
use qdrop_core::graph::SiteKind;
use qdrop_core::pipeline::Subject;
use qdrop_core::task::Metric;

/// The ranking of an analysis of the run's recipe, if there was one.
pub fn section(record: &Record) -> Markup {
    let Some(analysis) = &record.analysis else { return html! {} };
    let Some(metric) = analysis.metrics.first() else { return html! {} };
    html! {
        h2 { "Sensitivity" }
        p class="note" {
            "How far the network is from the float one (" (metric.heading()) ", mean of " (analysis.images) " calibration images) with one layer, one value or one unit "
            "quantized alone, rounded to nearest and without reconstruction."
        }
        div class="charts" {
            @for is_unit in [false, true] {
                @for bits in analysis.bits() { (ranking(analysis, metric, is_unit, bits)) }
            }
        }
        (suspicious(&analysis.sites))
        details { summary { "all measurements" } (everything(analysis)) }
    }
}

/// The most that a ranking shows; the table has all.
const RANKED: usize = 30;

fn ranking(analysis: &Analysis, metric: &Metric, is_unit: bool, bits: u32) -> Markup {
    let of_bits = analysis.sensitivities.iter().filter(|one| one.subject.is_unit == is_unit && one.bits == bits);
    let mut bars: Vec<Bar> = of_bits
        .filter_map(|one| {
            Some(Bar {
                name: one.subject.name.clone(),
                value: one.measured.value(metric).ok()?,
                error: one.measured.standard_error(metric),
                group: usize::from(one.subject.kind == SiteKind::Activation),
            })
        })
        .collect();
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    bars.truncate(RANKED);
    let what = if is_unit { "Units" } else { "Layers and values" };
    let groups = vec!["weights".into(), "activations".into()];
    let title = format!("{what} at {bits} bits");
    let chart = BarChart { title, x: metric.heading(), groups, bars };
    html! { @if !chart.bars.is_empty() { (chart.figure()) } }
}

fn everything(analysis: &Analysis) -> Markup {
    let bits = analysis.bits();
    let mut head: Vec<String> = ["name", "quantized"].map(String::from).to_vec();
    for metric in &analysis.metrics {
        head.extend(bits.iter().map(|bits| format!("{}, {bits} bits", metric.heading())));
    }
    let mut subjects: Vec<&Subject> = Vec::new();
    for one in &analysis.sensitivities {
        if subjects.last() != Some(&&one.subject) {
            subjects.push(&one.subject);
        }
    }
    let row = |subject: &&Subject| {
        let what = format!("{}{}", subject.kind.name(), if subject.is_unit { "s of the unit" } else { "" });
        let value = |metric: &Metric, bits: u32| {
            let found = analysis.sensitivities.iter().find(|one| one.subject == **subject && one.bits == bits);
            found.and_then(|one| one.measured.value(metric).ok()).map(number).unwrap_or_default()
        };
        let values = analysis.metrics.iter().flat_map(|metric| bits.iter().map(move |bits| value(metric, *bits)));
        [subject.name.clone(), what].into_iter().chain(values).collect()
    };
    let rows: Vec<Vec<String>> = subjects.iter().map(row).collect();
    table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}
