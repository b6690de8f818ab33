//! The loss around the quantized weights.

use super::super::chart::{LineChart, Series, Style};
use crate::kept::{Curves, Flatness};
use maud::{html, Markup};
use qdrop_core::pipeline::Direction;
use std::collections::BTreeSet;

/// The curves of one run or of several, by the runs' names.
pub fn section(runs: &[(String, &Flatness)]) -> Markup {
    html! {
        h2 { "Flatness" }
        p class="note" {
            "The loss around the quantized weights: how far the network's results are from the float network's. Along quantization, distance -1 are the float weights, 0 the "
            "quantized ones, and 1 is as far again. In random directions each filter moves by its own norm at distance 1; the mean over three directions."
        }
        div class="charts" { @for chart in charts(runs) { (chart.figure()) } }
    }
}

/// The charts: two directions, on two kinds of images. A run without a name is alone.
pub fn charts(runs: &[(String, &Flatness)]) -> Vec<LineChart> {
    let mut charts = Vec::new();
    for (direction, along) in
        [(Direction::Quantization, "along quantization"), (Direction::Random, "in random directions")]
    {
        for on_calibration in [true, false] {
            let images = if on_calibration { "calibration images" } else { "evaluation images" };
            let mut series = Vec::new();
            for (name, flatness) in runs {
                for curve in
                    curves_of(flatness, on_calibration).curves.iter().filter(|curve| curve.direction == direction)
                {
                    let (what, style) = match curve.activations {
                        true => ("activations quantized", Style::Line),
                        false => ("activations float", Style::Dashed),
                    };
                    let name = if name.is_empty() { what.into() } else { format!("{name}, {what}") };
                    let points = curve.points.iter().map(|point| (point.distance, point.loss)).collect();
                    series.push(Series { name, points, style });
                }
            }
            let y = runs.first().map(|(_, flatness)| flatness.metric.heading()).unwrap_or_default();
            let counts: BTreeSet<usize> =
                runs.iter().map(|(_, flatness)| curves_of(flatness, on_calibration).images).collect();
            let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
            let title = format!("Loss {along}, {} {images}", counts.join(" or "));
            charts.push(LineChart { title, x: "distance".into(), y, log_y: false, series });
        }
    }
    charts
}

fn curves_of(flatness: &Flatness, on_calibration: bool) -> &Curves {
    match on_calibration {
        true => &flatness.calibration,
        false => &flatness.evaluation,
    }
}
