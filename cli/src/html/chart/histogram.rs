//! Histograms of a tensor before and after quantization.

use super::axis::{drawable, Plot, Range};
use super::number::number;
use super::{at, colour, figure, key, marker, marker_class, spread, table, Entry, POINTS};
use maud::{html, Markup};

/// Shares of the elements of a tensor in equal bins, before (float) and after quantization, with the points of the
/// quantization grid; a table has the numbers.
pub struct Histogram {
    /// What it shows.
    pub title: String,
    /// Label of the horizontal axis.
    pub x: String,
    /// Where the first bin begins.
    pub low: f64,
    /// Where the last bin ends.
    pub high: f64,
    /// Names, and the share of the elements in each bin; all of equal length. The first is drawn as an area, the others as
    /// outlines upon it.
    pub series: Vec<(String, Vec<f64>)>,
    /// Points of the quantization grid, drawn below the axis.
    pub grid: Vec<f64>,
    /// Named vertical lines, such as the ends of a range.
    pub marks: Vec<(String, f64)>,
    /// The vertical axis is logarithmic.
    pub log_y: bool,
}

/// Space below the axis for the points of the grid.
const STRIP: f64 = 11.0;

impl Histogram {
    /// The figure.
    pub fn figure(&self) -> Markup {
        let drawing = self.drawing();
        let numbers = drawing.is_some().then(|| self.numbers());
        figure(&self.title, &self.legend(), drawing, numbers)
    }

    /// The marks that can be drawn, with their indices among colours and markers.
    fn marks(&self) -> impl Iterator<Item = (usize, &(String, f64))> {
        (self.series.len()..).zip(&self.marks).filter(|(_, mark)| drawable(mark.1, false))
    }

    /// The points of the grid that can be drawn.
    fn grid(&self) -> impl Iterator<Item = f64> + '_ {
        self.grid.iter().copied().filter(|v| drawable(*v, false))
    }

    fn legend(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (i, (name, _)) in self.series.iter().enumerate() {
            let content = html! { path class=(class(i)) d="M2 12V4h6.7v-4h6.6v8h6.7v4" {} };
            entries.push(Entry { key: key(i, content), name: name.clone() });
        }
        for (i, (name, value)) in self.marks() {
            let content = html! {
                line class="mark" x1="12" x2="12" y1="0" y2="12" {}
                path class=(marker_class(i)) d=(marker(i, 12.0, 4.0, 3.0)) {}
            };
            entries.push(Entry { key: key(i, content), name: format!("{name} {}", number(*value, 4)) });
        }
        match self.grid().count() {
            0 => {}
            count => {
                let key = html! { svg class="key" viewBox="0 0 24 12" aria-hidden="true" { path class="grid" d="M3 3v6m6-6v6m6-6v6m6-6v6" {} } };
                let points = if count == 1 { "point" } else { "points" };
                entries.push(Entry { key, name: format!("grid of {count} {points}") });
            }
        }
        entries
    }

    fn drawing(&self) -> Option<(f64, Markup)> {
        let ends = [self.low, self.high];
        if !ends.iter().all(|v| drawable(*v, false)) || self.low >= self.high {
            return None;
        }
        let shares = || self.series.iter().flat_map(|(_, bins)| bins.iter().copied()).filter(|v| shown(*v));
        shares().next()?;
        // The lowest bin of a logarithmic axis is still seen; others begin at zero.
        let least = if self.log_y { shares().fold(f64::INFINITY, f64::min) * 0.7 } else { 0.0 };
        let x = Range::of(ends.into_iter().chain(self.grid()).chain(self.marks().map(|(_, mark)| mark.1)), false)?;
        let y = Range::of(shares().chain([least]), self.log_y)?.rounded(5);
        let plot =
            Plot::new(x, y, [&self.x, "share of elements"], if self.grid().next().is_some() { STRIP } else { 0.0 });
        let below = at(plot.bottom + 5.0);
        let grid: String = self.grid().map(|v| format!("M{} {below}v7", at(plot.x.at(v)))).collect();
        let content = html! {
            (plot.axes)
            @for (i, (_, bins)) in self.series.iter().enumerate() {
                g class=(colour(i)) { path class=(class(i)) d=(self.outline(bins, &plot)) {} }
            }
            @for (i, (name, value)) in self.marks() {
                @let x = plot.x.at(*value);
                g class=(colour(i)) {
                    line class="mark" x1=(at(x)) x2=(at(x)) y1=(at(plot.top)) y2=(at(plot.bottom)) {
                        title { (name) " " (number(*value, 6)) }
                    }
                    path class=(marker_class(i)) d=(marker(i, x, plot.top, 3.0)) {}
                }
            }
            @if !grid.is_empty() { path class=(if self.grid.len() > 32 { "grid fine" } else { "grid" }) d=(grid) {} }
        };
        Some((plot.height, content))
    }

    /// The ends of bin `index` of `count`.
    fn bin(&self, index: usize, count: usize) -> [f64; 2] {
        [index, index + 1].map(|i| {
            let share = i as f64 / count as f64;
            self.low * (1.0 - share) + self.high * share
        })
    }

    /// The path around the bins that have elements, one piece for those beside each other.
    fn outline(&self, bins: &[f64], plot: &Plot) -> String {
        let mut path = String::new();
        let bottom = at(plot.bottom);
        let mut open = false;
        for (i, share) in bins.iter().enumerate() {
            if !shown(*share) {
                continue;
            }
            let [begin, end] = self.bin(i, bins.len()).map(|v| at(plot.x.at(v)));
            if !open {
                path += &format!("M{begin} {bottom}");
            }
            path += &format!("V{}H{end}", at(plot.y.at(*share)));
            open = bins.get(i + 1).is_some_and(|next| shown(*next));
            if !open {
                path += &format!("V{bottom}");
            }
        }
        path
    }

    fn numbers(&self) -> Markup {
        let count = self.series.iter().map(|(_, bins)| bins.len()).max().unwrap_or(0);
        let row = |i: usize| {
            let [begin, end] = self.bin(i, count).map(|v| number(v, 6));
            let shares = self.series.iter().map(|(_, bins)| bins.get(i).map_or_else(String::new, |v| number(*v, 6)));
            [begin, end].into_iter().chain(shares).collect()
        };
        let rows: Vec<Vec<String>> = spread(count, POINTS).into_iter().map(row).collect();
        let head: Vec<&str> = ["from", "to"].into_iter().chain(self.series.iter().map(|(name, _)| &**name)).collect();
        let grid: Vec<String> = self.grid().map(|v| number(v, 6)).collect();
        html! {
            @if !grid.is_empty() { p class="values" { "grid: " (grid.join(", ")) } }
            (table(&head, &rows))
        }
    }
}

/// Whether a bin has elements.
fn shown(share: f64) -> bool {
    share > 0.0 && drawable(share, true)
}

/// The class of series `index`.
fn class(index: usize) -> &'static str {
    match index {
        0 => "area",
        _ if index % 2 == 1 => "steps",
        _ => "steps dashed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(log_y: bool, bins: Vec<f64>) -> Histogram {
        Histogram {
            title: "weights".into(),
            x: "value".into(),
            low: -1.0,
            high: 1.0,
            series: vec![("before".into(), bins)],
            grid: vec![],
            marks: vec![],
            log_y,
        }
    }

    fn text(histogram: &Histogram) -> String {
        histogram.figure().into_string()
    }

    /// The labels have three characters, so the plot runs from 33.1 to 374 with a margin of 4, and from 196 up to 24.
    #[test]
    fn bins_stand_side_by_side() {
        let found = text(&histogram(false, vec![0.5, 0.25, 0.0, 0.25, 0.0]));
        assert!(found.contains("d=\"M37.1 196V24H103.7V110H170.3V196M236.8 196V110H303.4V196\""), "{found}");
        // The axis runs from 0.05 (70 percent of the least share, rounded) to 1.
        let found = text(&histogram(true, vec![0.9, 0.1]));
        let [high, low] = [0.9_f64, 0.1].map(|v| at(196.0 - 172.0 * (v / 0.05).log10() / 20f64.log10()));
        assert!(found.contains(&format!("V{high}H")) && found.contains(&format!("V{low}H")), "{found}");
    }

    #[test]
    fn grid_and_marks_are_drawn_and_widen_the_axis() {
        let mut histogram = histogram(false, vec![0.5, 0.5]);
        histogram.grid = vec![-3.0, 0.0, 1.0, f64::NAN];
        histogram.marks = vec![("<script>".into(), -3.0), ("high".into(), f64::INFINITY)];
        let found = text(&histogram);
        assert!(found.contains("d=\"M37.1 201v7M286.8 201v7M370 201v7\""), "{found}");
        assert!(found.contains("<span>grid of 3 points</span>") && found.contains("grid: -3, 0, 1<"));
        assert!(found.contains("<span>&lt;script&gt; -3</span>") && !found.contains("<script>"));
        assert_eq!(found.matches("x1=\"37.1\" x2=\"37.1\" y1=\"24\" y2=\"196\"").count(), 1);
        assert!(!found.contains("high"));
    }

    #[test]
    fn the_table_has_the_ends_of_bins() {
        let found = text(&histogram(false, vec![0.75, 0.25]));
        assert!(found.contains("<th scope=\"row\">-1</th><td>0</td><td>0.75</td>"), "{found}");
        assert!(found.contains("<th scope=\"row\">0</th><td>1</td><td>0.25</td>"));
    }

    #[test]
    fn degenerate_histograms() {
        for bins in [vec![], vec![0.0, 0.0], vec![f64::NAN]] {
            assert!(text(&histogram(true, bins)).contains("no data"));
        }
        let mut wrong = histogram(false, vec![1.0]);
        for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            (wrong.low, wrong.high) = (low, high);
            assert!(text(&wrong).contains("no data"));
        }
        for (low, high) in [(-1e300, 1e300), (0.0, 1e-30), (1.0, 1.0 + 1e-12), (0.0, 5e-324)] {
            (wrong.low, wrong.high) = (low, high);
            let found = text(&wrong);
            assert!(found.contains("class=\"area\"") && !found.contains("NaN"), "{found}");
        }
    }
}
