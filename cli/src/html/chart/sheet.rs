//! Several charts in one SVG file that stands alone.

use super::super::page::STYLE;
use super::{at, LineChart, WIDTH};
use maud::{html, Markup, PreEscaped};

/// Space around and between charts.
const SPACE: f64 = 24.0;
/// Height of a line of the legend, and of the title.
const LINE: f64 = 18.0;

/// The charts in two columns, with titles and legends, as an SVG file.
pub fn sheet(charts: &[LineChart]) -> String {
    let columns = charts.len().clamp(1, 2);
    let drawn: Vec<(f64, Markup)> = charts.iter().map(cell).collect();
    let (mut y, mut cells) = (SPACE, Vec::new());
    for row in drawn.chunks(columns) {
        for (i, (_, content)) in row.iter().enumerate() {
            cells.push((SPACE + i as f64 * (WIDTH + 2.0 * SPACE), y, content));
        }
        y += row.iter().map(|(height, _)| *height).fold(0.0, f64::max) + SPACE;
    }
    let width = columns as f64 * (WIDTH + 2.0 * SPACE);
    let content = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(at(width)) height=(at(y)) viewBox={ "0 0 " (at(width)) " " (at(y)) } font-family="sans-serif" font-size="12" {
            style { (PreEscaped(STYLE)) }
            rect width="100%" height="100%" fill="var(--back)" {}
            @for (x, y, content) in &cells { g class="chart" transform={ "translate(" (at(*x)) " " (at(*y)) ")" } { (content) } }
        }
    };
    content.into_string()
}

/// The height of a chart with title and legend, and its drawing from (0, 0) on.
fn cell(chart: &LineChart) -> (f64, Markup) {
    let legend = chart.legend();
    let above = LINE * (1.0 + legend.len() as f64) + LINE / 2.0;
    let (height, drawing) = chart.content().unwrap_or((LINE, html! { text y="12" { "no data" } }));
    let content = html! {
        text class="label" y="12" font-weight="600" { (chart.title) }
        @for (i, entry) in legend.iter().enumerate() {
            @let top = LINE * (i as f64 + 1.0);
            g transform={ "translate(0 " (at(top)) ")" } { (entry.key) text x="30" y="11" { (entry.name) } }
        }
        g transform={ "translate(0 " (at(above)) ")" } { (drawing) }
    };
    (above + height, content)
}

#[cfg(test)]
mod tests {
    use super::super::{Series, Style};
    use super::*;

    #[test]
    fn a_sheet_holds_all_charts_and_its_style() {
        let chart = |title: &str| LineChart {
            title: title.into(),
            x: "x".into(),
            y: "y".into(),
            log_y: false,
            series: ["a < b", "c"]
                .map(|name| Series { name: name.into(), points: vec![(0.0, 1.0), (1.0, 3.0)], style: Style::Line })
                .into(),
        };
        let text = sheet(&[chart("one"), chart("two"), chart("three")]);
        assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"856\""), "{}", &text[..200]);
        for part in [">one<", ">two<", ">three<", "a &lt; b", "prefers-color-scheme", "transform=\"translate(452 24)\""]
        {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(text.matches("class=\"chart\"").count(), 3);
        assert!(sheet(&[]).ends_with("</svg>"));
    }
}
