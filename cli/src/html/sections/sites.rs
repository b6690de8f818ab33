//! Sites: noise, ranges, distributions.

use super::super::chart::{Bar, BarChart, Histogram, LineChart, Series, Style};
use super::super::record::Record;
use super::super::words::{number, or_nothing, percent, table, texts};
use maud::{html, Markup};
use qdrop_core::graph::SiteKind;
use qdrop_core::report::SiteReport;

/// Tables and charts of all sites.
pub fn section(record: &Record) -> Markup {
    let sites = &record.sites;
    if sites.is_empty() {
        return html! {};
    }
    let moved = sites.iter().filter_map(|site| Some(Bar::new(&site.name, 100.0 * site.moved?, None)));
    let (title, x) = ("Roundings that left the nearest point", "percent of the weight's elements");
    let moved = BarChart::new(title, x, moved.collect());
    html! {
        h2 { "Layers" }
        p class="note" {
            "Signal-to-quantization-noise ratio (SQNR) of each site on a few calibration images: alone is the noise of its own quantizer, accumulated that "
            "of the value in the quantized network with the noise of all layers before it. Places are counted in the order of execution."
        }
        div class="charts" { (noise(sites)) (moved.figure()) }
        (suspicious(sites))
        details {
            summary { "all sites" }
            (overview(sites))
        }
        h3 { "Distributions" }
        p class="note" {
            "Weights are in steps of each channel's grid (w / scale + zero point), so that all channels have one grid; below the axis are its points. Activations are "
            "in their own units, with the range that the grid covered before and after learning. Values beyond the axis count in the first and the last bin."
        }
        // A large network's would make the page very long.
        details open[sites.len() <= OPEN] {
            summary { (sites.len()) " distributions" }
            div class="charts" { @for site in sites { (distribution(site)) } }
        }
    }
}

/// The most distributions that are shown from the beginning.
const OPEN: usize = 40;

fn noise(sites: &[SiteReport]) -> Markup {
    let of = |of: SiteKind, value: fn(&SiteReport) -> Option<f64>| -> Vec<(f64, f64)> {
        let places = sites.iter().enumerate().filter(|(_, site)| site.kind == of);
        places.filter_map(|(i, site)| Some(((i + 1) as f64, value(site)?))).collect()
    };
    let series = vec![
        Series {
            name: "activations, accumulated".into(),
            points: of(SiteKind::Activation, |site| site.noise_accumulated),
            style: Style::Line,
        },
        Series {
            name: "activations, alone".into(),
            points: of(SiteKind::Activation, |site| site.noise_alone),
            style: Style::Dashed,
        },
        Series {
            name: "weights, alone".into(),
            points: of(SiteKind::Weight, |site| site.noise_alone),
            style: Style::Points,
        },
    ];
    let title = "Signal-to-quantization-noise ratio".into();
    LineChart { title, x: "place in the network".into(), y: "dB".into(), log_y: false, series }.figure()
}

/// Sites with dead or lost channels, or many clipped values.
pub fn suspicious(sites: &[SiteReport]) -> Markup {
    let row = |site: &SiteReport| {
        let reasons = site.suspicions();
        (!reasons.is_empty()).then(|| vec![site.name.clone(), site.kind.name().into(), reasons.join("; ")])
    };
    let rows: Vec<Vec<String>> = sites.iter().filter_map(row).collect();
    html! {
        @if !rows.is_empty() {
            h3 { "Suspicious sites" }
            p class="note" {
                "A channel that is too small for the grid has different values, but all of them are rounded to one point. Clipped values lie beyond the grid "
                "by more than half a step; activations are named from 1 % on, weights from 10 %."
            }
            (texts(&["site", "quantized", "why"], &rows))
        }
    }
}

fn overview(sites: &[SiteReport]) -> Markup {
    let head = [
        "site",
        "quantized",
        "bits",
        "SQNR alone dB",
        "SQNR accumulated dB",
        "left nearest %",
        "clipped %",
        "range before",
        "range after",
        "channels",
        "dead",
        "lost",
    ];
    let range =
        |clipping: qdrop_core::report::Clipping| format!("{} to {}", number(clipping.low), number(clipping.high));
    let rows: Vec<Vec<String>> = sites
        .iter()
        .map(|site| {
            vec![
                site.name.clone(),
                site.kind.name().into(),
                site.bits.to_string(),
                or_nothing(site.noise_alone),
                or_nothing(site.noise_accumulated),
                site.moved.map(percent).unwrap_or_default(),
                percent(site.clipped),
                range(site.before),
                range(site.after),
                site.channels.to_string(),
                site.dead_channels.to_string(),
                site.lost_channels.to_string(),
            ]
        })
        .collect();
    table(&head, &rows)
}

fn distribution(site: &SiteReport) -> Markup {
    let mut series = vec![("float".to_string(), site.float.shares.clone())];
    series.extend(site.quantized.as_ref().map(|shares| ("quantized".to_string(), shares.shares.clone())));
    let marks = match site.kind {
        SiteKind::Weight => Vec::new(),
        SiteKind::Activation => {
            let ends = [("before", site.before), ("after", site.after)];
            let marks = ends.iter().flat_map(|(when, range)| {
                [(format!("{when}, lowest"), range.low), (format!("{when}, highest"), range.high)]
            });
            marks.collect()
        }
    };
    let x = match site.kind {
        SiteKind::Weight => "steps of the grid",
        SiteKind::Activation => "value",
    };
    Histogram {
        title: format!("{}, {}, {} bits", site.name, site.kind.name(), site.bits),
        x: x.into(),
        low: site.float.low,
        high: site.float.high,
        series,
        grid: site.grid.clone(),
        marks,
        log_y: site.kind == SiteKind::Activation,
    }
    .figure()
}
