//! The page of one run.

use super::page::page as document;
use super::record::{Record, State};
use super::sections::{bits, conditions, flatness, result, sensitivity, sites, units};
use maud::html;

/// The page of a run.
pub fn page(record: &Record) -> String {
    let recipe = &record.recipe;
    let body = html! {
        h1 { (recipe.name) " " span class="tag" { (recipe.bits()) } " " span class="tag" { (state(record.state)) } }
        @if let Some(description) = &recipe.description { p { (description) } }
        (result::cards(record))
        @if record.state != State::Finished { (result::progress(record)) }
        @for gap in &record.gaps { p class="warning" { (gap) } }
        @if let Some(notice) = record.summary.as_ref().and_then(|summary| summary.notice.as_ref()) {
            p class="warning" { (notice) }
        }
        (result::section(record))
        (bits::section(record))
        (units::section(record))
        (sites::section(record))
        (sensitivity::section(record))
        @if let Some(measured) = &record.flatness {
            (flatness::section(&[(String::new(), measured)]))
        }
        (conditions::section(record))
    };
    document(&format!("{} {}", recipe.name, recipe.bits()), body)
}

/// How far a run is, in a word.
pub fn state(state: State) -> &'static str {
    match state {
        State::Finished => "finished",
        State::Running => "running",
        State::Interrupted => "interrupted",
    }
}
