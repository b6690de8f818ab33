//! Units: losses, time, memory.

use super::super::chart::{Bar, BarChart, LineChart, Series, Style};
use super::super::record::{Record, State};
use super::super::words::{number, or_nothing, percent, table};
use crate::report::duration;
use maud::{html, Markup};
use qdrop_core::memory::gib;
use qdrop_core::report::{LossPoint, UnitReport};

/// Tables and charts of all units that learn.
pub fn section(record: &Record) -> Markup {
    let learned: Vec<&UnitReport> = record.units.iter().filter(|unit| !unit.losses.is_empty()).collect();
    if learned.is_empty() && record.current.is_none() && missing(record).is_none() {
        return html! {};
    }
    let head = [
        "unit",
        "steps",
        "loss, first",
        "loss, last",
        "loss, hard",
        "kept step",
        "rounding",
        "unsettled %",
        "time",
        "memory GiB",
    ];
    let rows: Vec<Vec<String>> = learned.iter().map(|unit| row(unit)).collect();
    html! {
        h2 { "Units" }
        p class="note" {
            "The reconstruction loss is the mean squared error of a unit's output, summed over channels: with soft roundings and drop while it "
            "learns, and with hard roundings and without drop at some steps, as it would be if learning ended there. First and last are means of 20 steps. "
            "Rounding is the weighted regularizer; unsettled are soft roundings that were neither up nor down at the end."
        }
        @if let Some(missing) = missing(record) {
            p class="warning" { "Units of which nothing is shown, because their checkpoints are not in the run's folder any more: " (missing) "." }
        }
        @if !rows.is_empty() {
            (table(&head, &rows))
            div class="charts" {
                (bars("Time", "seconds", &learned, |unit| Some(unit.seconds)))
                (bars("Memory in use when the unit was finished", "GiB", &learned, |unit| unit.memory_bytes.map(gib)))
            }
        }
        h3 { "Losses" }
        div class="charts" {
            @if let Some(current) = &record.current {
                (losses(&format!("{} (not finished)", current.name), &current.losses, &[]))
            }
            @for unit in &learned {
                (losses(&unit.name, &numbered(unit), &unit.hard.iter().map(|hard| (hard.step as f64, f64::from(hard.loss))).collect::<Vec<_>>()))
            }
        }
    }
}

/// The number of units of a finished run whose checkpoints are gone.
fn missing(record: &Record) -> Option<usize> {
    let all = record.log.units.filter(|_| record.state == State::Finished)?;
    all.checked_sub(record.units.len()).filter(|missing| *missing > 0)
}

fn row(unit: &UnitReport) -> Vec<String> {
    let loss = |last: bool| or_nothing(unit.mean_losses(last).map(|loss| loss.reconstruction));
    vec![
        unit.name.clone(),
        unit.losses.len().to_string(),
        loss(false),
        loss(true),
        or_nothing(unit.hard.last().map(|hard| f64::from(hard.loss))),
        unit.kept.as_ref().map(|kept| kept.step.to_string()).unwrap_or_default(),
        or_nothing(unit.mean_losses(true).map(|loss| loss.rounding)),
        unit.soft_share.map(percent).unwrap_or_default(),
        duration(unit.seconds),
        unit.memory_bytes.map(|bytes| number(gib(bytes))).unwrap_or_default(),
    ]
}

fn bars(title: &str, x: &str, units: &[&UnitReport], value: impl Fn(&UnitReport) -> Option<f64>) -> Markup {
    let bar = |unit: &&UnitReport| Some(Bar::new(&unit.name, value(unit)?, None));
    let bars: Vec<Bar> = units.iter().filter_map(bar).collect();
    let chart = BarChart::new(title, x, bars);
    html! { @if !chart.bars.is_empty() { (chart.figure()) } }
}

fn numbered(unit: &UnitReport) -> Vec<(usize, LossPoint)> {
    unit.losses.iter().enumerate().map(|(i, loss)| (i + 1, *loss)).collect()
}

fn losses(name: &str, losses: &[(usize, LossPoint)], hard: &[(f64, f64)]) -> Markup {
    let of = |value: fn(&LossPoint) -> f64| losses.iter().map(|(step, loss)| (*step as f64, value(loss))).collect();
    let mut series = vec![
        Series { name: "reconstruction, soft".into(), points: of(|loss| loss.reconstruction), style: Style::Line },
        Series { name: "rounding".into(), points: of(|loss| loss.rounding), style: Style::Dashed },
        Series { name: "reconstruction, hard".into(), points: hard.to_vec(), style: Style::Points },
    ];
    series.retain(|series| series.points.iter().any(|(_, value)| *value > 0.0));
    LineChart { title: name.into(), x: "step".into(), y: "loss".into(), log_y: true, series }.figure()
}
