//! `analyze`: ranks layers and units by what they lose at few bits.

use super::report::renew;
use super::{run_of, Output};
use crate::cli::arguments::AnalyzeArguments;
use crate::cli::console::Console;
use crate::error::At;
use crate::kept::SENSITIVITY_FILE;
use crate::recipes::is_built_in;
use crate::report::aligned;
use crate::{Analysis, Stage, REPORT_FILE};
use anyhow::Result;
use qdrop_core::pipeline::{Sensitivity, Subject};
use qdrop_core::report::SiteReport;
use qdrop_core::run_directory::{check_writable, write_json, MANIFEST_FILE};
use qdrop_core::task::Metric;
use serde_json::Value;

/// Bits by which layers and units are ranked.
const RANKED: u32 = 4;

/// Prints one table of layers and one of units.
pub fn analyze(arguments: &AnalyzeArguments, console: &Console, output: Output) -> Result<Value> {
    let dir = &arguments.recipe.recipe;
    let is_run = dir.join(MANIFEST_FILE).is_file() && !is_built_in(&dir.to_string_lossy());
    let is_kept = is_run && arguments.recipe.is_unchanged();
    if is_kept {
        for name in [SENSITIVITY_FILE, REPORT_FILE] {
            check_writable(&dir.join(name)).at(Stage::Saving)?;
        }
    } else if is_run {
        console.line("not saved: the recipe is changed, and is not that of the run");
    }
    let analysis = run_of(&arguments.recipe, console)?.analyze(arguments.images)?;
    let Analysis { metrics, sensitivities, images, sites, .. } = &analysis;
    if is_kept {
        write_json(&dir.join(SENSITIVITY_FILE), &analysis).at(Stage::Saving)?;
        console.line(&format!("saved as {}", dir.join(SENSITIVITY_FILE).display()));
        renew(dir, console)?;
    }
    if let Some(metric) = metrics.first() {
        for (is_unit, what) in [(false, "layers and values"), (true, "units")] {
            let rows = ranked(sensitivities, metric, is_unit)?;
            output.print(&format!("{what}, each quantized alone: {} of {images} images\n", metric.title))?;
            output.print(&aligned(&rows))?;
        }
    }
    let suspicious: Vec<_> = sites.iter().filter(|site| !site.suspicions().is_empty()).collect();
    if !suspicious.is_empty() {
        output.print("suspicious, with the recipe's bits\n")?;
        let heading = ["layer", "quantized", "why"].map(String::from).to_vec();
        let line = |site: &&SiteReport| {
            vec![site.name.clone(), format!("{}s", site.kind.name()), site.suspicions().join("; ")]
        };
        output.print(&aligned(&std::iter::once(heading).chain(suspicious.iter().map(line)).collect::<Vec<_>>()))?;
    }
    Ok(Value::from_iter([
        ("images", Value::from(*images)),
        ("sensitivities", serde_json::to_value(sensitivities)?),
        ("sites", serde_json::to_value(sites)?),
    ]))
}

/// The table, with the largest deviation at 4 bits first.
fn ranked(all: &[Sensitivity], metric: &Metric, is_unit: bool) -> Result<Vec<Vec<String>>> {
    let mut subjects: Vec<(&Subject, Vec<f64>)> = Vec::new();
    for one in all.iter().filter(|one| one.subject.is_unit == is_unit) {
        if subjects.last().is_none_or(|(subject, _)| **subject != one.subject) {
            subjects.push((&one.subject, Vec::new()));
        }
        if let Some((_, values)) = subjects.last_mut() {
            values.push(one.measured.value(metric)?);
        }
    }
    let place = Analysis::BITS.iter().position(|bits| *bits == RANKED).unwrap_or(0);
    let key = |values: &[f64]| values.get(place).copied().unwrap_or(0.0);
    subjects.sort_by(|a, b| key(&b.1).total_cmp(&key(&a.1)));
    let title = if is_unit { "unit" } else { "layer" };
    let heading = [title.into(), "quantized".into()].into_iter();
    let mut rows = vec![heading.chain(Analysis::BITS.map(|bits| format!("{bits} bits"))).collect::<Vec<String>>()];
    for (Subject { name, kind, .. }, values) in subjects {
        let kind = format!("{}s", kind.name());
        let values = values.iter().map(|value| format!("{value:.digits$}", digits = metric.unit.digits()));
        rows.push([name.clone(), kind].into_iter().chain(values).collect());
    }
    Ok(rows)
}
