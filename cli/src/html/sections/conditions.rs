//! Under what conditions a run ran: warnings, machine, recipe.

use super::super::record::Record;
use super::super::words::{date, number, texts};
use maud::{html, Markup};
use qdrop_core::memory::gib;

/// Warnings, processes and the recipe.
pub fn section(record: &Record) -> Markup {
    let rows: Vec<Vec<String>> = record
        .log
        .processes
        .iter()
        .map(|process| {
            let machine = process.machine.clone().unwrap_or_default();
            vec![
                date(process.time),
                process.version.clone(),
                machine.processor.unwrap_or_default(),
                if machine.cores > 0 { machine.cores.to_string() } else { String::new() },
                machine.memory_bytes.map(|bytes| number(gib(bytes))).unwrap_or_default(),
                machine.system,
            ]
        })
        .collect();
    let prepared = record.summary.iter().flat_map(|summary| &summary.prepared);
    let weights = record.summary.as_ref().and_then(|summary| summary.weights.as_ref());
    html! {
        h2 { "Conditions" }
        @if let Err(cause) = &record.cost {
            p class="note" { "The network cannot be built any more, so its size is not shown: " (cause) }
        }
        @if !record.log.warnings.is_empty() {
            h3 { "Warnings" }
            @for warning in &record.log.warnings { p class="warning" { (warning) } }
        }
        @for (name, changes) in prepared {
            details {
                summary { (name) ": " (changes.len()) " parts of the float network" }
                (texts(&["part", "change"], &changes.iter().map(|change| vec![change.part.clone(), change.what.clone()]).collect::<Vec<_>>()))
            }
        }
        @if let Some(weights) = weights { p class="note" { (weights) } }
        h3 { "Processes" }
        (texts(&["began", "qdrop", "processor", "threads", "memory GiB", "system"], &rows))
        p class="note" {
            "Device " (record.manifest.device) "; SHA-256 of the float weights " code { (record.manifest.weights) }
            @if let Some(images) = &record.manifest.calibration { ", of the calibration images " code { (images) } }
            "."
        }
        h3 { "Recipe" }
        pre { code { (record.manifest.recipe) } }
    }
}
