//! Horizontal bars.

use super::axis::{drawable, horizontal, rules, Range, Scale};
use super::number::number;
use super::{at, colour, figure, key, short_text, table, Entry, WIDTH};
use maud::{html, Markup};

/// A figure of named values as horizontal bars from zero, one row each, with a table of its numbers.
pub struct BarChart {
    /// What it shows.
    pub title: String,
    /// Label of the horizontal axis.
    pub x: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// Names of the groups, for the legend; with none or one there is no legend.
    pub groups: Vec<String>,
}

/// A named value.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Name, on the left.
    pub name: String,
    /// Length of the bar. One that is not finite has no bar and no number.
    pub value: f64,
    /// Standard error of the value, drawn on both sides of its end.
    pub error: Option<f64>,
    /// Index of the group, which decides the colour.
    pub group: usize,
}

/// Height of a row.
const ROW: f64 = 18.0;
/// Most characters of a name; a longer one loses its middle.
const NAME: usize = 22;
/// Width of a character of a name or a value, which are smaller than other text.
const CHARACTER: f64 = 7.0;
/// Where the rows begin.
const TOP: f64 = 4.0;

impl Bar {
    /// A value of the first group.
    pub fn new(name: &str, value: f64, error: Option<f64>) -> Self {
        Self { name: name.into(), value, error, group: 0 }
    }

    /// The standard error, if it is one.
    fn standard_error(&self) -> Option<f64> {
        self.error.filter(|e| e.is_finite() && *e >= 0.0)
    }

    /// The number beside the bar.
    fn label(&self) -> String {
        match (number(self.value, 4), self.standard_error()) {
            (value, Some(error)) if !value.is_empty() => format!("{value} ± {}", number(error, 2)),
            (value, _) => value,
        }
    }
}

impl BarChart {
    /// A chart of one group.
    pub fn new(title: impl Into<String>, x: impl Into<String>, bars: Vec<Bar>) -> Self {
        Self { title: title.into(), x: x.into(), bars, groups: Vec::new() }
    }

    /// The figure.
    pub fn figure(&self) -> Markup {
        let legend: Vec<Entry> = match self.groups.len() {
            0 | 1 => Vec::new(),
            _ => self.groups.iter().enumerate().map(|(i, name)| entry(i, name)).collect(),
        };
        figure(&self.title, &legend, self.drawing(), self.numbers())
    }

    /// The values that the axis holds.
    fn range(&self) -> Option<Range> {
        let shown = || self.bars.iter().filter(|b| drawable(b.value, false));
        shown().next()?;
        let ends = |b: &Bar| [0.0, -1.0, 1.0].map(|side| b.value + side * b.standard_error().unwrap_or(0.0));
        // Bars begin at zero.
        Range::of(shown().flat_map(ends).chain([0.0]), false).map(|range| range.rounded(4))
    }

    fn drawing(&self) -> Option<(f64, Markup)> {
        let range = self.range()?;
        let width = |text: &str| text.chars().count() as f64 * CHARACTER;
        let left = self.bars.iter().map(|b| width(&b.name)).fold(0.0, f64::max).min(NAME as f64 * CHARACTER) + 8.0;
        let right = WIDTH - self.bars.iter().map(|b| width(&b.label())).fold(0.0, f64::max) - 8.0;
        let bottom = TOP + self.bars.len() as f64 * ROW + 2.0;
        let (scale, axis) = horizontal(range, &self.x, [left, right], bottom, 0.0);
        let zero = scale.at(0.0);
        let content = html! {
            (rules(range, scale, TOP, bottom))
            (axis)
            @for (bar, row) in self.bars.iter().zip(0_u32..) {
                @let middle = TOP + (f64::from(row) + 0.5) * ROW;
                text class="end small" x=(at(left - 4.0)) y=(at(middle + 4.0)) { (short_text(&bar.name, NAME)) }
                text class="end small" x=(at(WIDTH)) y=(at(middle + 4.0)) { (bar.label()) }
                @if drawable(bar.value, false) { (bar_at(bar, scale, zero, middle)) }
            }
            line class="axis" x1=(at(zero)) x2=(at(zero)) y1=(at(TOP)) y2=(at(bottom)) {}
        };
        Some((bottom + 40.0, content))
    }

    fn numbers(&self) -> Option<Markup> {
        let grouped = self.groups.len() > 1;
        let errors = self.bars.iter().any(|b| b.standard_error().is_some());
        let mut head = vec!["name"];
        head.extend(grouped.then_some("group"));
        head.push(&self.x);
        head.extend(errors.then_some("standard error"));
        let row = |bar: &Bar| {
            let mut cells = vec![bar.name.clone()];
            cells.extend(grouped.then(|| self.groups.get(bar.group).cloned().unwrap_or_default()));
            cells.push(number(bar.value, 6));
            cells.extend(errors.then(|| bar.standard_error().map_or_else(String::new, |e| number(e, 6))));
            cells
        };
        let rows: Vec<Vec<String>> = self.bars.iter().map(row).collect();
        (!rows.is_empty()).then(|| table(&head, &rows))
    }
}

/// A bar around the height `middle`, from `zero`, and its standard error.
fn bar_at(bar: &Bar, scale: Scale, zero: f64, middle: f64) -> Markup {
    let end = scale.at(bar.value);
    let (height, class) = shape(bar.group);
    html! {
        g class=(colour(bar.group)) {
            rect class=(class) x=(at(zero.min(end))) y=(at(middle - height / 2.0)) width=(at((end - zero).abs()))
                height=(at(height)) { title { (bar.name) ": " (bar.label()) } }
        }
        @if let Some(error) = bar.standard_error() {
            @let (low, high) = (at(scale.at(bar.value - error)), at(scale.at(bar.value + error)));
            @let (above, y, below) = (at(middle - 4.0), at(middle), at(middle + 4.0));
            @let d = format!("M{low} {above}V{below}M{low} {y}H{high}M{high} {above}V{below}");
            // The wide line below sets it off from the bar.
            path class="halo" d=(d) {}
            path class="error" d=(d) {}
        }
    }
}

/// Height and class of the bars of a group: groups differ without colour.
fn shape(group: usize) -> (f64, &'static str) {
    match group % 4 {
        0 => (11.0, "bar"),
        1 => (11.0, "bar outline"),
        2 => (6.0, "bar"),
        _ => (11.0, "bar outline dashed"),
    }
}

fn entry(group: usize, name: &str) -> Entry {
    let (height, class) = shape(group);
    let content = html! { rect class=(class) x="2" y=(at(6.0 - height / 2.0)) width="20" height=(at(height)) {} };
    Entry { key: key(group, content), name: name.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(bars: Vec<(&str, f64, Option<f64>)>) -> BarChart {
        let bars = bars.into_iter().map(|(name, value, error)| Bar { name: name.into(), value, error, group: 0 });
        BarChart { title: "times".into(), x: "seconds".into(), bars: bars.collect(), groups: vec![] }
    }

    /// Names of one character and numbers of one leave the plot from 15 to 365, with a margin of 4 at each end.
    #[test]
    fn bars_begin_at_zero() {
        let found = chart(vec![("a", 8.0, None), ("b", 4.0, None)]).figure().into_string();
        assert!(found.contains("x=\"19\" y=\"7.5\" width=\"342\" height=\"11\""), "{found}");
        assert!(found.contains("x=\"19\" y=\"25.5\" width=\"171\" height=\"11\""), "{found}");
        let found = chart(vec![("a", -8.0, None), ("b", 8.0, None)]).figure().into_string();
        // The number has two characters, and the axis runs from -10 to 10, which is from 19 to 354.
        assert_eq!(found.matches("width=\"134\"").count(), 2, "{found}");
    }

    #[test]
    fn errors_are_drawn_and_told() {
        let found = chart(vec![("a", 8.0, Some(2.0)), ("b", 4.0, Some(f64::NAN))]).figure().into_string();
        assert_eq!(found.matches("class=\"error\"").count(), 1);
        assert!(found.contains(">8 ± 2</text>"));
        assert!(found.contains("<th scope=\"row\">a</th><td>8</td><td>2</td>"));
        assert!(found.contains("<th scope=\"row\">b</th><td>4</td><td></td>"));
    }

    #[test]
    fn values_that_cannot_be_drawn_have_a_row_without_a_bar() {
        let found = chart(vec![("a", f64::NAN, Some(1.0)), ("b", 4.0, None)]).figure().into_string();
        assert_eq!(found.matches("<rect").count(), 1);
        assert!(found.contains("<th scope=\"row\">a</th><td></td><td>1</td>"));
        for bars in [vec![], vec![("a", f64::INFINITY, None)]] {
            assert!(chart(bars).figure().into_string().contains("no data"));
        }
        for value in [0.0, 1e30, -1e-30, 1e300] {
            let found = chart(vec![("a", value, Some(value))]).figure().into_string();
            assert!(found.contains("<rect") && !found.contains("NaN"), "{found}");
        }
    }

    #[test]
    fn groups_have_a_legend_and_names_are_escaped() {
        let mut chart = chart(vec![("<script>", 1.0, None), ("b", 2.0, None)]);
        chart.bars[1].group = 1;
        assert!(!chart.figure().into_string().contains("class=\"legend\""));
        chart.groups = vec!["weights".into(), "activations".into()];
        let found = chart.figure().into_string();
        assert_eq!(found.matches("class=\"key c").count(), 2);
        assert!(found.contains("<td>activations</td><td>2</td>"));
        assert!(!found.contains("<script>") && found.contains("&lt;script&gt;"));
    }
}
