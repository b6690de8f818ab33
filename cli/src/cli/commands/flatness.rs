//! `flatness`: the loss around the weights of saved results.

use super::report::renew;
use super::{check_distinct, Output};
use crate::cli::arguments::FlatnessArguments;
use crate::cli::console::Console;
use crate::error::At;
use crate::kept::check_output;
use crate::report::aligned;
use crate::{flatness_figure, Flatness, Stage, REPORT_FILE};
use anyhow::{bail, Result};
use qdrop_core::pipeline::Curve;
use qdrop_core::run_directory::{check_writable, write_file};
use qdrop_core::task::Metric;
use serde_json::Value;
use std::path::Path;

/// Measures all runs, and prints what a step away from the quantized weights costs.
pub fn flatness(arguments: &FlatnessArguments, console: &Console, output: Output) -> Result<Value> {
    check_distinct(&arguments.dirs)?;
    if let Some(figure) = &arguments.figure {
        check_output(figure, &["svg"]).at(Stage::Report)?;
    }
    // All of it before the first measurement.
    let mut first: Option<(&Path, Metric)> = None;
    for dir in &arguments.dirs {
        let metric = Flatness::check(dir, console)?;
        check_writable(&dir.join(REPORT_FILE)).at(Stage::Report)?;
        match &first {
            Some((other, of_other)) if *of_other != metric => {
                let (a, b) = (of_other.heading(), metric.heading());
                bail!("the loss of {} is {a}, that of {} is {b}; measure them apart", other.display(), dir.display());
            }
            Some(_) => {}
            None => first = Some((dir, metric)),
        }
    }
    let mut all = Vec::new();
    for dir in &arguments.dirs {
        all.push((dir.display().to_string(), Flatness::measure(dir, arguments.images, console)?));
        renew(dir, console)?;
    }
    let shown: Vec<(String, &Flatness)> = all.iter().map(|(name, flatness)| (name.clone(), flatness)).collect();
    if let Some(figure) = &arguments.figure {
        write_file(figure, flatness_figure(&shown).as_bytes()).at(Stage::Report)?;
    }
    output.print(&table(&shown))?;
    let value = |(name, flatness): &(String, Flatness)| Ok((name.clone(), serde_json::to_value(flatness)?));
    all.iter().map(value).collect()
}

/// The loss at the quantized weights and at the ends of each curve.
fn table(all: &[(String, &Flatness)]) -> String {
    let title = all.first().map(|(_, flatness)| flatness.metric.heading()).unwrap_or_default();
    let mut lines =
        vec![["run", "images", "direction", "activations", "at -", "at 0", "at +"].map(String::from).to_vec()];
    for (name, flatness) in all {
        let name = Path::new(name).file_name().map_or_else(|| name.clone(), |name| name.to_string_lossy().into_owned());
        for (images, curves) in [("calibration", &flatness.calibration), ("evaluation", &flatness.evaluation)] {
            let images = format!("{} of {images}", curves.images);
            for Curve { direction, activations, points } in &curves.curves {
                let farthest = points.last().map(|point| format!(", {}", point.distance)).unwrap_or_default();
                let direction = format!("{}{farthest}", direction.name());
                let activations = if *activations { "quantized" } else { "float" };
                let mut line = [&name, &images, &direction, activations].map(String::from).to_vec();
                for place in [0, points.len() / 2, points.len().saturating_sub(1)] {
                    line.push(points.get(place).map(|point| format!("{:.4}", point.loss)).unwrap_or_default());
                }
                lines.push(line);
            }
        }
    }
    format!("{title} around the quantized weights, at both ends of each direction\n{}", aligned(&lines))
}
