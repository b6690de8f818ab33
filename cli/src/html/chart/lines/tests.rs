use super::*;

type Named<'a> = (&'a str, Vec<(f64, f64)>, Style);

fn chart(log_y: bool, series: Vec<Named>) -> LineChart {
    let series = series.into_iter().map(|(name, points, style)| Series { name: name.into(), points, style });
    LineChart { title: "loss".into(), x: "step".into(), y: "error".into(), log_y, series: series.collect() }
}

fn text(chart: &LineChart) -> String {
    chart.figure().into_string()
}

#[test]
fn a_reduced_line_keeps_its_ends_and_spikes() {
    let mut points: Vec<(f64, f64)> = (0..20_000).map(|i| (f64::from(i), (f64::from(i) * 0.01).sin())).collect();
    points[7_777].1 = 50.0;
    points[12_345].1 = -70.0;
    let kept = reduce(points.clone(), 300);
    assert!((250..=300).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.first(), points.first());
    assert_eq!(kept.last(), points.last());
    assert!(kept.contains(&(7_777.0, 50.0)) && kept.contains(&(12_345.0, -70.0)));
    assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(reduce(points[..300].to_vec(), 300), points[..300]);
}

/// The plot is 172 units high, from 196 up to 24. It begins 10 units beside labels of three or four characters of 7.7
/// units and ends at 374, with a margin of 4 at each end.
#[test]
fn points_stand_where_the_axes_say() {
    let found = text(&chart(false, vec![("a", vec![(0.0, 0.0), (2.5, 0.5), (10.0, 1.0)], Style::Line)]));
    assert!(found.contains("d=\"M37.1 196L120.3 110L370 24\""), "{found}");
    let found = text(&chart(true, vec![("a", vec![(0.0, 0.01), (1.0, 1.0)], Style::Dashed)]));
    assert!(found.contains("class=\"line dashed\" d=\"M44.8 196L370 24\""), "{found}");
}

#[test]
fn names_are_escaped() {
    let mut chart = chart(false, vec![("<script>a", vec![(0.0, 1.0)], Style::Line), ("b", vec![], Style::Line)]);
    chart.title = "\"<script>".into();
    let found = text(&chart);
    assert!(!found.contains("<script>"));
    assert!(found.contains("aria-label=\"&quot;&lt;script&gt;\""));
    assert!(found.contains("<span>&lt;script&gt;a</span>"));
}

#[test]
fn a_chart_without_points_says_so() {
    let empty = "<p class=\"empty\">no data</p>";
    assert!(text(&chart(false, vec![])).contains(empty));
    let values = vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)];
    let found = text(&chart(false, vec![("a", values, Style::Line)]));
    assert!(found.contains(empty) && !found.contains("<details>"));
    assert!(text(&chart(true, vec![("a", vec![(0.0, 0.0)], Style::Points)])).contains(empty));
}

/// A line through one point is drawn as its marker, in the middle of the axes.
#[test]
fn a_single_point_is_seen() {
    let found = text(&chart(false, vec![("a", vec![(3.0, 7.0)], Style::Line)]));
    // The labels have two characters, so the plot runs from 25.4 to 374.
    let middle = marker(0, 199.7, 110.0, 3.0);
    assert!(found.contains(&middle), "{middle} in {found}");
    for value in [1e30, 1e-30, -1e30, 0.0, f64::MAX] {
        let found = text(&chart(false, vec![("a", vec![(value, value), (1.0, 2.0)], Style::Line)]));
        assert!(!found.contains("NaN") && !found.contains("inf"), "{found}");
    }
}

#[test]
fn lines_of_one_style_have_markers() {
    let points = vec![(0.0, 0.0), (1.0, 1.0)];
    let two = vec![("a", points.clone(), Style::Line), ("b", points.clone(), Style::Line)];
    // One in each entry of the legend, one path for each line.
    assert_eq!(text(&chart(false, two)).matches("class=\"marker\"").count(), 4);
    let different = vec![("a", points.clone(), Style::Line), ("b", points, Style::Dashed)];
    assert_eq!(text(&chart(false, different)).matches("class=\"marker\"").count(), 0);
}

#[test]
fn a_table_leaves_missing_values_empty() {
    let a = vec![(0.0, 1.25), (2.0, 1.0 / 3.0)];
    let b = vec![(1.0, -4.0), (2.0, f64::NAN)];
    let found = text(&chart(false, vec![("a", a, Style::Line), ("b", b, Style::Points)]));
    let rows = "<tr><th scope=\"row\">0</th><td>1.25</td><td></td></tr>\
                <tr><th scope=\"row\">1</th><td></td><td>-4</td></tr>\
                <tr><th scope=\"row\">2</th><td>0.333333</td><td></td></tr>";
    assert!(found.contains(rows), "{found}");
}

#[test]
fn a_table_has_evenly_spaced_rows_and_all_of_a_short_series() {
    let long: Vec<(f64, f64)> = (0..20_000).map(|i| (f64::from(i), 1.0)).collect();
    let short = vec![(17.0, 1.0), (5_001.0, 2.0)];
    let kept = rows(&[long.clone(), short, long.clone()], 300);
    assert!((298..=300).contains(&kept.len()), "{}", kept.len());
    assert!([0.0, 17.0, 5_001.0, 19_999.0].iter().all(|x| kept.contains(x)));
    assert_eq!(rows(&[long[..5].to_vec()], 3), [0.0, 2.0, 4.0]);
    // Twenty series whose values all differ.
    let apart: Vec<Vec<(f64, f64)>> =
        (0..20).map(|s| long.iter().map(|p| (p.0 + f64::from(s) / 32.0, 0.0)).collect()).collect();
    assert_eq!(rows(&apart, 300).len(), 300);
}
