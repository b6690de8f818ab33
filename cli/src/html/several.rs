//! The page of several runs side by side.

use super::chart::{Bar, BarChart, LineChart, Series, Style};
use super::differences::differences;
use super::one::state;
use super::page::page as document;
use super::record::{Record, State};
use super::sections::flatness;
use super::words::{is_drawn, megabytes, table, texts};
use crate::comparison::probability;
use crate::error::{At, Result, Stage};
use crate::report::{cell, duration};
use maud::{html, Markup};
use qdrop_core::task::{Metric, PairedComparison};

/// The page of several runs.
///
/// # Errors
/// What was measured on single images does not fit together.
pub fn page(records: &[Record]) -> Result<String> {
    let names = names(records);
    let measured: Vec<_> =
        names.iter().zip(records).filter_map(|(n, r)| Some((n.clone(), r.flatness.as_ref()?))).collect();
    let body = html! {
        h1 { (records.len()) " runs" }
        @for (name, record) in names.iter().zip(records) {
            @for gap in &record.gaps { p class="warning" { (name) ": " (gap) } }
        }
        (results(&names, records))
        (paired(&names, records)?)
        (losses(&names, records))
        @if !measured.is_empty() { (flatness::section(&measured)) }
        (recipes(&names, records))
    };
    Ok(document(&names.join(", "), body))
}

/// Names of the runs: those of the folders, or their whole paths where two have one name.
fn names(records: &[Record]) -> Vec<String> {
    let short: Vec<String> = records.iter().map(Record::name).collect();
    let is_twice = |name: &String| short.iter().filter(|other| *other == name).count() > 1;
    let name = |(name, record): (&String, &Record)| match is_twice(name) {
        true => record.dir.display().to_string(),
        false => name.clone(),
    };
    short.iter().zip(records).map(name).collect()
}

/// The metrics that all finished runs have in common come first.
fn metrics(records: &[Record]) -> Vec<Metric> {
    let mut all: Vec<Metric> = Vec::new();
    for metric in records.iter().flat_map(Record::metrics) {
        if !all.iter().any(|known| known.key == metric.key) {
            all.push(metric);
        }
    }
    all
}

fn results(names: &[String], records: &[Record]) -> Markup {
    let metrics = metrics(records);
    let value = |record: &Record, metric: &Metric| {
        let summary = record.summary.as_ref()?;
        Some((summary.quantized.value(metric).ok()?, summary.quantized.standard_error(metric)))
    };
    let mut head: Vec<String> = ["run", "recipe", "bits", "state"].map(String::from).to_vec();
    head.extend(metrics.iter().map(Metric::heading));
    head.extend(["size", "MACs x bits, % of w8a8", "time"].map(String::from));
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(records)
        .map(|(name, record)| {
            let mut row =
                vec![name.clone(), record.recipe.name.clone(), record.recipe.bits(), state(record.state).into()];
            let measured = metrics.iter().map(|metric| value(record, metric).map(|(v, error)| cell(metric, v, error)));
            row.extend(measured.map(Option::unwrap_or_default));
            let cost = record.cost.as_ref();
            row.push(cost.map(|cost| megabytes(cost.bytes)).unwrap_or_default());
            row.push(cost.map(|cost| format!("{:.1}", cost.percent_of_w8a8)).unwrap_or_default());
            row.push(record.summary.as_ref().map(|summary| duration(summary.seconds)).unwrap_or_default());
            row
        })
        .collect();
    let charts: Vec<BarChart> = metrics
        .iter()
        .map(|metric| {
            let bar = |(name, record): (&String, &Record)| {
                let (value, error) = value(record, metric).filter(|(value, _)| is_drawn(metric, *value))?;
                Some(Bar::new(name, value, error))
            };
            BarChart::new(metric.heading(), metric.heading(), names.iter().zip(records).filter_map(bar).collect())
        })
        .collect();
    html! {
        h2 { "Results" }
        (table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows))
        p class="note" { "Quantized networks; standard errors over the images in parentheses." }
        div class="charts" { @for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) { (chart.figure()) } }
    }
}

/// Why two runs cannot be compared image by image, `None` if they can.
fn unlike(a: &Record, b: &Record) -> Option<&'static str> {
    if [a, b].iter().any(|record| record.state != State::Finished) {
        Some("not both are finished")
    } else if a.recipe.task != b.recipe.task {
        Some("their tasks differ")
    } else if !same_images(a, b) {
        Some("they were not measured on the same images")
    } else if !a.images.iter().any(|own| b.images.iter().any(|other| other.metric == own.metric)) {
        Some("what was measured on single images was not kept; `qdrop compare` measures it")
    } else {
        None
    }
}

/// Whether two runs were measured on the same images.
fn same_images(a: &Record, b: &Record) -> bool {
    let images = |record: &Record| {
        let recipe = &record.recipe;
        let measured = record.summary.as_ref().map(|summary| (summary.quantized.images, summary.quantized.broken));
        let root = recipe.data_root.as_ref().map(|root| recipe.resolve("data_root", root));
        (recipe.data.name.clone(), recipe.data.params.clone(), root, measured)
    };
    images(a) == images(b)
}

/// Differences from the first run, image by image.
fn paired(names: &[String], records: &[Record]) -> Result<Markup> {
    let (Some(first), Some(name)) = (records.first(), names.first()) else { return Ok(html! {}) };
    let (mut rows, mut bars, mut others): (Vec<_>, Vec<(Metric, Bar)>, Vec<String>) = Default::default();
    for (other, record) in names.iter().zip(records).skip(1) {
        if let Some(why) = unlike(first, record) {
            others.push(format!("{other} is not compared with {name}: {why}."));
            continue;
        }
        for a in &first.images {
            let Some(b) = record.images.iter().find(|b| b.metric == a.metric) else { continue };
            let compared = a.compare(b).at(Stage::Comparison)?;
            let PairedComparison { metric, difference, difference_standard_error, counts, .. } = &compared;
            let sign = if *difference > 0.0 { "+" } else { "" };
            let mut row = vec![
                other.clone(),
                metric.heading(),
                format!("{sign}{}", cell(metric, *difference, *difference_standard_error)),
            ];
            let counts = counts.map(|c| [c.only_a.to_string(), c.only_b.to_string(), probability(c.mcnemar_p)]);
            row.extend(counts.unwrap_or_default());
            rows.push(row);
            bars.push((metric.clone(), Bar::new(other, *difference, *difference_standard_error)));
        }
    }
    let charts: Vec<BarChart> = first
        .images
        .iter()
        .map(|own| {
            let of_metric = bars.iter().filter(|(metric, _)| *metric == own.metric);
            let title = format!("{}, difference from {name}", own.metric.title);
            BarChart::new(title, own.metric.heading(), of_metric.map(|(_, bar)| bar.clone()).collect())
        })
        .collect();
    let only_a = format!("only {name}");
    Ok(html! {
        h2 { "Differences, image by image" }
        @if !rows.is_empty() {
            (table(&["run", "metric", &format!("difference from {name}"), &only_a, "only this run", "McNemar p"], &rows))
            p class="note" { "Standard errors of the differences in parentheses: they are smaller than those of the runs, because most images are easy or hard for both." }
            div class="charts" { @for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) { (chart.figure()) } }
        }
        @for other in &others { p class="note" { (other) } }
    })
}

fn losses(names: &[String], records: &[Record]) -> Markup {
    let of = |value: &dyn Fn(&qdrop_core::report::UnitReport) -> Option<f64>| {
        let series = names.iter().zip(records).map(|(name, record)| {
            let points = record.units.iter().enumerate().filter_map(|(i, unit)| Some(((i + 1) as f64, value(unit)?)));
            Series { name: name.clone(), points: points.collect(), style: Style::Line }
        });
        series.collect::<Vec<_>>()
    };
    let chart = |title: &str, y: &str, series: Vec<Series>| LineChart {
        title: title.into(),
        x: "unit".into(),
        y: y.into(),
        log_y: true,
        series,
    };
    let charts = [
        chart("Last reconstruction loss, hard", "loss", of(&|unit| unit.hard.last().map(|hard| f64::from(hard.loss)))),
        chart(
            "Last reconstruction loss, soft",
            "loss",
            of(&|unit| unit.mean_losses(true).map(|loss| loss.reconstruction)),
        ),
        chart("Time", "seconds", of(&|unit| Some(unit.seconds))),
    ];
    let noise = names.iter().zip(records).map(|(name, record)| {
        let points = record.sites.iter().filter_map(|site| site.noise_accumulated).enumerate();
        let points = points.map(|(i, noise)| ((i + 1) as f64, noise)).collect();
        Series { name: name.clone(), points, style: Style::Line }
    });
    let noise = LineChart {
        title: "Accumulated signal-to-quantization-noise ratio".into(),
        x: "activation".into(),
        y: "dB".into(),
        log_y: false,
        series: noise.collect(),
    };
    html! {
        h2 { "Units" }
        div class="charts" { @for chart in charts.iter().chain([&noise]) { (chart.figure()) } }
    }
}

fn recipes(names: &[String], records: &[Record]) -> Markup {
    let recipes: Vec<_> = records.iter().map(|record| &record.recipe).collect();
    let rows = differences(&recipes).into_iter().map(|(key, values)| [vec![key], values].concat());
    let rows: Vec<Vec<String>> = rows.collect();
    let head: Vec<&str> = ["key"].into_iter().chain(names.iter().map(String::as_str)).collect();
    html! {
        h2 { "Where the recipes differ" }
        @if rows.is_empty() {
            p class="note" { "They do not." }
        } @else {
            (texts(&head, &rows))
        }
    }
}
