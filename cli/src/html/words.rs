//! Numbers and tables of the report as text and HTML.

use maud::{html, Markup};
use qdrop_core::graph::SiteKind;

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

/// Bytes as megabytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// What is quantized.
pub fn kind(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Weight => "weight",
        SiteKind::Activation => "activation",
    }
}

/// A time in seconds since 1970 as date and time of day, in UTC.
pub fn date(seconds: f64) -> String {
    let seconds = seconds as i64;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar, counted in years from March, so that the day that leap years add is the last one.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let all = [0.0, 1.0, -0.0123449, 1234.56, 99_999.4, 1e6, 1e-5, f64::NAN].map(number);
        assert_eq!(all, ["0", "1.000", "-0.01234", "1235", "99999", "1.000e6", "1.000e-5", "-"]);
    }

    /// As `date -u -d @N` prints them.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0.0, "1970-01-01 00:00 UTC"),
            (951_827_696.5, "2000-02-29 12:34 UTC"),
            (1_709_251_199.0, "2024-02-29 23:59 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00 UTC"),
            (1_795_910_400.0, "2026-11-29 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), want);
        }
    }
}
