//! What was measured, and how far a run is.

use super::super::chart::{Bar, BarChart};
use super::super::record::{Record, State};
use super::super::words::{is_drawn, megabytes, table};
use crate::report::{cell, duration, Row};
use maud::{html, Markup};
use qdrop_core::memory::gib;
use qdrop_core::task::Metric;

/// The most important numbers.
pub fn cards(record: &Record) -> Markup {
    let first = record.metrics().into_iter().next();
    let value = |row: Option<&Row>| {
        let (row, metric) = (row?, first.as_ref()?);
        Some(cell(metric, row.measured.value(metric).ok()?, row.measured.standard_error(metric)))
    };
    let title = first.as_ref().map(Metric::heading).unwrap_or_default();
    let last = record.rows.last().filter(|_| record.summary.is_some());
    let mut cards: Vec<(String, String)> = Vec::new();
    cards.extend(value(last).map(|text| (title.clone(), text)));
    let float = record.rows.iter().find(|row| row.seconds.is_none());
    cards.extend(value(float).map(|text| (format!("{title}, float"), text)));
    if let Ok(cost) = &record.cost {
        cards.push(("size".into(), megabytes(cost.bytes)));
        cards.push(("size, float".into(), megabytes(cost.float_bytes)));
        cards.push(("MACs x bits, of w8a8".into(), format!("{:.1} %", cost.percent_of_w8a8)));
    }
    if let Some(summary) = &record.summary {
        cards.push(("time".into(), duration(summary.seconds)));
        cards.push(("peak memory".into(), format!("{:.2} GiB", gib(summary.peak_rss_bytes))));
        let of_device = summary.peak_device_bytes.map(|bytes| format!("{:.2} GiB", gib(bytes)));
        cards.extend(of_device.map(|text| ("peak memory, GPU".to_string(), text)));
    }
    html! {
        dl class="cards" {
            @for (name, value) in &cards { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// How far a run is that has no result yet.
pub fn progress(record: &Record) -> Markup {
    let done = record.units.len();
    let unit = record.log.unit.as_ref().map(|(name, losses)| (name, losses.last().map_or(0, |(step, _)| *step)));
    html! {
        p class="note" {
            @if let Some(variant) = &record.variant {
                "The variant '" (variant) "' goes before the recipe itself"
                @if let Some((name, step)) = unit { ", and its unit " (name) " is at step " (step) }
            } @else {
                (done) @if let Some(of) = record.log.units { " of " (of) } " units are finished"
                @if let Some(current) = &record.current {
                    ", " (current.name) " is at step " (current.losses.last().map_or(0, |(step, _)| *step))
                }
            }
            @if let Some((stage, total)) = &record.log.stage { "; begun last: " (stage) ", " (total) " items" }
            ". What is not measured yet is missing below."
            @if record.state == State::Interrupted {
                " `qdrop resume " (record.dir.display()) "` "
                @if record.log.units == Some(done) { "measures the result." } @else { "continues." }
            }
        }
    }
}

/// All networks of the run by all metrics.
pub fn section(record: &Record) -> Markup {
    let metrics = record.metrics();
    let known = |row: &Row, metric: &Metric| row.measured.value(metric).ok();
    let head: Vec<String> = ["network".into(), "bits".into()]
        .into_iter()
        .chain(metrics.iter().map(Metric::heading))
        .chain(["time".into()])
        .collect();
    let rows: Vec<Vec<String>> = record
        .rows
        .iter()
        .map(|row| {
            let values = metrics.iter().map(|metric| match known(row, metric) {
                Some(value) => cell(metric, value, row.measured.standard_error(metric)),
                None => String::new(),
            });
            let time = row.seconds.map(duration).unwrap_or_default();
            [row.name.clone(), row.bits.clone()].into_iter().chain(values).chain([time]).collect()
        })
        .collect();
    let charts: Vec<BarChart> = metrics
        .iter()
        .map(|metric| {
            let bar = |row: &Row| {
                let value = known(row, metric).filter(|value| is_drawn(metric, *value))?;
                Some(Bar::new(&row.name, value, row.measured.standard_error(metric)))
            };
            BarChart::new(metric.heading(), metric.heading(), record.rows.iter().filter_map(bar).collect())
        })
        .collect();
    let images = record.rows.last().map(|row| (row.measured.images, row.measured.broken));
    html! {
        h2 { "Result" }
        @if record.rows.is_empty() {
            p class="note" { "Nothing is measured yet." }
        } @else {
            (table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows))
            p class="note" {
                @if let Some((images, broken)) = images {
                    (images) " evaluation images" @if broken > 0 { " (" (broken) " more could not be read)" }
                    "; standard errors over the images in parentheses. Seed " (record.recipe.seed) ", setting " (record.recipe.quant.setting.to_string()) "."
                }
            }
            div class="charts" { @for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) { (chart.figure()) } }
        }
    }
}
