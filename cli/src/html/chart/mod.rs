//! Charts as SVG within HTML figures. Colours and text sizes are those of `page.css`; a chart has no identifiers, so a
//! page may hold any number of them.

mod axis;
mod bars;
mod histogram;
mod lines;
mod number;
mod sheet;

pub use bars::{Bar, BarChart};
pub use histogram::Histogram;
pub use lines::{LineChart, Series, Style};
pub use sheet::sheet;

use super::words::table;
use maud::{html, Markup};

/// Width of every drawing, in its own units. Text is 12 units high, and a figure is about as wide on the page as here.
const WIDTH: f64 = 380.0;
/// Width of a character of that text, that of the digits of a wide font.
const CHARACTER: f64 = 7.7;
/// Most points of a series that are drawn, and most rows of a table.
const POINTS: usize = 300;
/// Number of colours of the style sheet.
const COLOURS: usize = 7;

/// An entry of a legend: a small drawing and a name.
struct Entry {
    key: Markup,
    name: String,
}

/// A figure: the title, the legend, the drawing (`height` in its own units), and its numbers.
fn figure(title: &str, legend: &[Entry], drawing: Option<(f64, Markup)>, numbers: Option<Markup>) -> Markup {
    // A figure as high as several others takes as many rows of the grid, so that it leaves no gap beside it.
    let rows = match drawing.as_ref().map_or(0.0, |(height, _)| *height) {
        height if height > 800.0 => "chart rows-3",
        height if height > 420.0 => "chart rows-2",
        _ => "chart",
    };
    html! {
        figure class=(rows) {
            figcaption { (title) }
            @if !legend.is_empty() && drawing.is_some() {
                ul class="legend" {
                    @for entry in legend { li { (entry.key) span { (entry.name) } } }
                }
            }
            @if let Some((height, content)) = &drawing {
                svg viewBox={ "0 0 " (at(WIDTH)) " " (at(*height)) } role="img" aria-label=(title) { (content) }
            } @else {
                p class="empty" { "no data" }
            }
            @if let Some(numbers) = &numbers {
                details { summary { "numbers" } (numbers) }
            }
        }
    }
}

/// The drawing of an entry of a legend, 24 by 12 units, in the colour of series `index`.
fn key(index: usize, content: Markup) -> Markup {
    html! { svg class={ "key " (colour(index)) } viewBox="0 0 24 12" width="24" height="12" aria-hidden="true" { (content) } }
}

/// The class that sets the colour of series `index`.
fn colour(index: usize) -> String {
    format!("c{}", index % COLOURS)
}

/// A coordinate, in tenths of a unit.
fn at(value: f64) -> String {
    let tenths = (value * 10.0).round() / 10.0;
    // The sum turns a negative zero into zero.
    format!("{}", tenths + 0.0)
}

/// A text of at most `limit` characters: a longer one loses its middle, since names differ at their ends, and shows all
/// of itself under the pointer.
fn short_text(text: &str, limit: usize) -> Markup {
    let length = text.chars().count();
    if length <= limit {
        return html! { (text) };
    }
    let head: String = text.chars().take((limit - 1) / 2).collect();
    let tail: String = text.chars().skip(length - limit / 2).collect();
    html! { title { (text) } (head) "…" (tail) }
}

/// Path of the marker of series `index` around a point: twelve shapes that differ without colour.
fn marker(index: usize, x: f64, y: f64, radius: f64) -> String {
    let (r, d) = (at(radius), at(2.0 * radius));
    let (left, above, below) = (at(x - radius), at(y - radius), at(y + radius));
    let (x, y) = (at(x), at(y));
    match index % 6 {
        0 => format!("M{left} {y}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z"),
        1 => format!("M{left} {above}h{d}v{d}h-{d}z"),
        2 => format!("M{x} {above}l{r} {d}h-{d}z"),
        3 => format!("M{x} {above}l{r} {r}l-{r} {r}l-{r} -{r}z"),
        4 => format!("M{x} {below}l{r} -{d}h-{d}z"),
        _ if index % 12 == 5 => format!("M{left} {above}l{d} {d}m0 -{d}l-{d} {d}"),
        _ => format!("M{left} {y}h{d}m-{r} -{r}v{d}"),
    }
}

/// The class of the marker of series `index`: the second six are hollow.
fn marker_class(index: usize) -> &'static str {
    match index % 12 {
        0..=5 => "marker",
        _ => "marker hollow",
    }
}

/// At most `limit` (two or more) of `count` places, evenly spaced, with the first and the last.
fn spread(count: usize, limit: usize) -> Vec<usize> {
    if count <= limit {
        return (0..count).collect();
    }
    let last = limit.max(2) - 1;
    (0..=last).map(|i| i * (count - 1) / last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(short_text("features.17.conv.0.0", 22).into_string(), "features.17.conv.0.0");
        let text = short_text("backbone.layer4.2.conv3.weight", 22).into_string();
        assert_eq!(text, "<title>backbone.layer4.2.conv3.weight</title>backbone.l…onv3.weight");
    }

    #[test]
    fn places_are_evenly_spaced_with_both_ends() {
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(9, 5), [0, 2, 4, 6, 8]);
        assert_eq!(spread(20_000, 3), [0, 9999, 19_999]);
        assert_eq!(spread(0, 5), [0; 0]);
    }

    #[test]
    fn coordinates_have_tenths() {
        assert_eq!([at(1.26), at(3.0), at(-0.01)], ["1.3", "3", "0"]);
    }

    /// Twenty series have pairs of colour and marker that are all different, and twelve have different markers.
    #[test]
    fn series_differ_by_marker_and_colour() {
        let shape = |i: usize| (marker(i, 10.0, 10.0, 3.0), marker_class(i));
        for i in 0..20 {
            for j in 0..i {
                assert_ne!((shape(i), colour(i)), (shape(j), colour(j)), "{i} and {j}");
                assert!(i >= 12 || shape(i) != shape(j), "{i} and {j}");
            }
        }
    }
}
