//! Lines and points over a horizontal axis.

use super::axis::{drawable, Plot, Range};
use super::number::number;
use super::{at, colour, figure, key, marker, marker_class, spread, table, Entry, POINTS};
use maud::{html, Markup};

/// A figure of values over a horizontal axis, with a table of its numbers.
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// Label of the horizontal axis.
    pub x: String,
    /// Label of the vertical axis.
    pub y: String,
    /// The vertical axis is logarithmic; values that are not positive are not drawn.
    pub log_y: bool,
    /// What is drawn; the order decides colours and markers.
    pub series: Vec<Series>,
}

/// Values of one kind.
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Horizontal and vertical values, in the order in which a line joins them. Points with a value that is not finite
    /// are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub style: Style,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
    /// Markers without a line.
    Points,
}

/// Markers along a line that has many points.
const MARKERS: usize = 6;

impl LineChart {
    /// The figure. A series of more than 300 points is drawn by the extremes of equal stretches of it; the table then has
    /// evenly spaced points.
    pub fn figure(&self) -> Markup {
        figure(&self.title, &self.legend(), self.content(), self.numbers())
    }

    /// The points of all series that are drawn.
    fn drawn(&self) -> Vec<Vec<(f64, f64)>> {
        self.series.iter().map(|s| self.reduced(s)).collect()
    }

    /// The legend; one series needs none.
    pub(super) fn legend(&self) -> Vec<Entry> {
        match self.series.len() {
            0 | 1 => Vec::new(),
            _ => self.entries(&self.drawn()),
        }
    }

    /// The height of the drawing and what is in it, if there is something to draw.
    pub(super) fn content(&self) -> Option<(f64, Markup)> {
        self.drawing(&self.drawn())
    }

    /// The points of a series that are drawn.
    fn reduced(&self, series: &Series) -> Vec<(f64, f64)> {
        let shown = |p: &&(f64, f64)| drawable(p.0, false) && drawable(p.1, self.log_y);
        reduce(series.points.iter().filter(shown).copied().collect(), POINTS)
    }

    /// Whether the lines of `style` need markers, because there are several.
    fn marked(&self, style: Style) -> bool {
        style != Style::Points && self.series.iter().filter(|s| s.style == style).count() > 1
    }

    fn entries(&self, drawn: &[Vec<(f64, f64)>]) -> Vec<Entry> {
        let shown = self.series.iter().zip(drawn).enumerate().filter(|(_, (_, points))| !points.is_empty());
        shown
            .map(|(i, (series, _))| {
                let content = html! {
                    @if series.style != Style::Points { path class=(line_class(series.style)) d="M0 6h24" {} }
                    @if series.style == Style::Points || self.marked(series.style) {
                        path class=(marker_class(i)) d=(marker(i, 12.0, 6.0, 3.0)) {}
                    }
                };
                Entry { key: key(i, content), name: series.name.clone() }
            })
            .collect()
    }

    fn drawing(&self, drawn: &[Vec<(f64, f64)>]) -> Option<(f64, Markup)> {
        let x = Range::of(drawn.iter().flatten().map(|p| p.0), false)?;
        let y = Range::of(drawn.iter().flatten().map(|p| p.1), self.log_y)?.rounded(5);
        let plot = Plot::new(x, y, [&self.x, &self.y], 0.0);
        let content = html! {
            (plot.axes)
            @for (i, (series, points)) in self.series.iter().zip(drawn).enumerate() {
                @if !points.is_empty() {
                    g class=(colour(i)) {
                        @if series.style != Style::Points {
                            path class=(line_class(series.style)) d=(line(points, &plot)) {}
                        }
                        @if let Some(d) = self.markers(i, series.style, points, &plot) {
                            path class=(marker_class(i)) d=(d) {}
                        }
                    }
                }
            }
        };
        Some((plot.height, content))
    }

    /// The path of the markers of series `index`, if it has some.
    fn markers(&self, index: usize, style: Style, points: &[(f64, f64)], plot: &Plot) -> Option<String> {
        let places = match style {
            Style::Points => (0..points.len()).collect(),
            // A line needs two points; one alone would not be seen.
            _ if points.len() == 1 => vec![0],
            _ if !self.marked(style) => return None,
            _ if points.len() <= 2 * MARKERS => (0..points.len()).collect(),
            // Lines that lie upon each other have their markers at different places.
            _ => (0..MARKERS).map(|k| (4 * k + index % 4) * (points.len() - 1) / (4 * MARKERS - 1)).collect(),
        };
        let radius = if places.len() > 60 { 2.0 } else { 3.0 };
        let shown = places.into_iter().filter_map(|place: usize| points.get(place));
        Some(shown.map(|(x, y)| marker(index, plot.x.at(*x), plot.y.at(*y), radius)).collect())
    }

    /// A row for each horizontal value, a column for each series.
    fn numbers(&self) -> Option<Markup> {
        let columns: Vec<Vec<(f64, f64)>> = self.series.iter().map(|s| sorted(&s.points)).collect();
        let rows = rows(&columns, POINTS);
        let cell = |column: &Vec<(f64, f64)>, x: f64| {
            let found = column.get(column.partition_point(|p| p.0 < x)).filter(|p| p.0 == x);
            found.map_or_else(String::new, |p| number(p.1, 6))
        };
        let cells =
            |x: f64| std::iter::once(number(x, 6)).chain(columns.iter().map(|column| cell(column, x))).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(|x| cells(*x)).collect();
        let head: Vec<&str> =
            std::iter::once(&self.x).chain(self.series.iter().map(|s| &s.name)).map(|n| &**n).collect();
        (!rows.is_empty()).then(|| table(&head, &rows))
    }
}

fn line_class(style: Style) -> &'static str {
    match style {
        Style::Dashed => "line dashed",
        Style::Line | Style::Points => "line",
    }
}

fn line(points: &[(f64, f64)], plot: &Plot) -> String {
    let place = |(i, (x, y)): (usize, &(f64, f64))| {
        format!("{}{} {}", if i == 0 { "M" } else { "L" }, at(plot.x.at(*x)), at(plot.y.at(*y)))
    };
    points.iter().enumerate().map(place).collect()
}

/// At most `limit` of the points: the first, the last, and the lowest and the highest of each of equal stretches between
/// them, so that no spike is lost.
fn reduce(points: Vec<(f64, f64)>, limit: usize) -> Vec<(f64, f64)> {
    if points.len() <= limit {
        return points;
    }
    let [first, inner @ .., last] = &points[..] else {
        return points;
    };
    let stretch = inner.len().div_ceil((limit.saturating_sub(2) / 2).max(1));
    let mut kept = vec![*first];
    for part in inner.chunks(stretch) {
        let order = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1 .1.total_cmp(&b.1 .1);
        let low = part.iter().enumerate().min_by(order);
        let high = part.iter().enumerate().max_by(order);
        let mut ends: Vec<(usize, &(f64, f64))> = low.into_iter().chain(high).collect();
        ends.sort_by_key(|(place, _)| *place);
        ends.dedup_by_key(|(place, _)| *place);
        kept.extend(ends.into_iter().map(|(_, point)| *point));
    }
    kept.push(*last);
    kept
}

/// The finite points by their horizontal value, the first of those with the same.
fn sorted(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite = points.iter().filter(|p| p.0.is_finite() && p.1.is_finite());
    // The sum turns a negative zero into zero.
    let mut kept: Vec<(f64, f64)> = finite.map(|p| (p.0 + 0.0, p.1)).collect();
    kept.sort_by(|a, b| a.0.total_cmp(&b.0));
    kept.dedup_by_key(|p| p.0);
    kept
}

/// The horizontal values of at most `limit` rows of a table. Series with the same values share their rows; each of the
/// others gets its part, the short ones all that they have.
fn rows(columns: &[Vec<(f64, f64)>], limit: usize) -> Vec<f64> {
    let places = |column: &Vec<(f64, f64)>| column.iter().map(|p| p.0).collect();
    let mut lists: Vec<Vec<f64>> = columns.iter().map(places).collect();
    lists.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal)));
    lists.dedup();
    let mut kept: Vec<f64> = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        let part = limit.saturating_sub(kept.len()) / (lists.len() - i);
        kept.extend(spread(list.len(), part.max(2)).into_iter().filter_map(|place| list.get(place)));
        kept.sort_by(f64::total_cmp);
        kept.dedup();
    }
    kept
}

#[cfg(test)]
mod tests;
