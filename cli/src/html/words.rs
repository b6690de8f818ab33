//! Numbers and tables of the report as text and HTML.

use maud::{html, Markup};
use qdrop_core::task::{Metric, MetricUnit};
use std::time::{Duration, UNIX_EPOCH};

/// A table of numbers, aligned to the right: the first column heads its rows. It scrolls sideways where the page is too narrow.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Markup {
    of_class("numbers", head, rows)
}

/// The same of texts, aligned to the left.
pub fn texts(head: &[&str], rows: &[Vec<String>]) -> Markup {
    of_class("texts", head, rows)
}

fn of_class(class: &str, head: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        div class="scroll" {
            table class=(class) {
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A number with four significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !size.is_finite() => "-".into(),
        size if (0.001..100_000.0).contains(&size) => {
            let digits = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.3e}"),
    }
}

/// A number that may not be known.
pub fn or_nothing(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// Whether a bar can show the value. Percentages are negative where there was nothing to measure, as the COCO benchmark has it.
pub fn is_drawn(metric: &Metric, value: f64) -> bool {
    value.is_finite() && (value >= 0.0 || metric.unit != MetricUnit::Percent)
}

/// Bytes as megabytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// The end of the year 9999, after which there is no such text.
const LAST: u64 = 253_402_300_799;

/// A time in seconds since 1970 as date and time of day, in UTC.
pub fn date(seconds: f64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs((seconds as u64).min(LAST));
    // Such as 2026-11-29T16:17:00Z; seconds say nothing here.
    let text = humantime::format_rfc3339_seconds(time).to_string();
    match text.split_once('T') {
        Some((day, rest)) => format!("{day} {} UTC", rest.get(..5).unwrap_or(rest)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let all = [0.0, 1.0, -0.0123449, 1234.56, 99_999.4, 1e6, 1e-5, f64::NAN].map(number);
        assert_eq!(all, ["0", "1.000", "-0.01234", "1235", "99999", "1.000e6", "1.000e-5", "-"]);
    }

    #[test]
    fn dates_are_short() {
        let all = [0.0, 951_827_696.5, 1_709_251_199.0].map(date);
        assert_eq!(
            [f64::NAN, -1.0, f64::MAX].map(date),
            ["1970-01-01 00:00 UTC", "1970-01-01 00:00 UTC", "9999-12-31 23:59 UTC"]
        );
        assert_eq!(all, ["1970-01-01 00:00 UTC", "2000-02-29 12:34 UTC", "2024-02-29 23:59 UTC"]);
    }
}
