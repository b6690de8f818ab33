//! Numbers as text.

/// The fewest characters that tell `value` to `digits` significant digits: `0.25`, `1e-5`, `-3.142`. Digits before the
/// decimal point are all printed. Numbers below 0.001 and above 100,000 have an exponent; one that is not finite is
/// empty.
pub(super) fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return String::new();
    }
    if value == 0.0 {
        return "0".to_string();
    }
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let place: i64 = exponent.parse().unwrap_or(0);
    let ten = matches!(mantissa.trim_start_matches('-').trim_end_matches('0'), "1." | "1");
    if (-3..5).contains(&place) || place == 5 && ten {
        let decimals = usize::try_from(digits as i64 - 1 - place).unwrap_or(0);
        return trimmed(&format!("{value:.decimals$}")).to_string();
    }
    format!("{}e{exponent}", trimmed(mantissa))
}

/// Without the zeros at the end of the fraction.
fn trimmed(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

/// Labels of the ticks of a linear axis: all with equally many decimals or all with exponents, as many digits as the
/// ticks need.
pub(super) fn labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let plain = (0.001..=100_000.0).contains(&largest);
    let print = |digits: usize| -> Vec<String> {
        let one = |v: &f64| match (*v == 0.0, plain) {
            (true, _) => "0".to_string(),
            (false, true) => format!("{v:.digits$}"),
            (false, false) => {
                let text = format!("{v:.digits$e}");
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                format!("{}e{exponent}", trimmed(mantissa))
            }
        };
        ticks.iter().map(one).collect()
    };
    let exact = |text: &String, v: &f64| text.parse().is_ok_and(|read: f64| (read - v).abs() <= 1e-10 * largest);
    for digits in 0..15 {
        let texts = print(digits);
        if texts.iter().zip(ticks).all(|(text, v)| exact(text, v)) {
            return texts;
        }
    }
    print(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (0.25, "0.25"),
            (-std::f64::consts::PI, "-3.142"),
            (0.001, "0.001"),
            (0.000_999_96, "0.001"),
            (0.000_5, "5e-4"),
            (1e-5, "1e-5"),
            (99_999.9, "100000"),
            (100_000.0, "100000"),
            (123_456.0, "1.235e5"),
            (12_345.0, "12345"),
            (-1e30, "-1e30"),
            (1.5e-30, "1.5e-30"),
            (100.0, "100"),
            (f64::NAN, ""),
            (f64::INFINITY, ""),
        ];
        for (value, text) in cases {
            assert_eq!(number(value, 4), text);
        }
        assert_eq!(number(0.123_456_789, 6), "0.123457");
        assert_eq!(number(1_234_567.0, 6), "1.23457e6");
    }

    #[test]
    fn ticks_of_an_axis_look_alike() {
        assert_eq!(labels(&[0.0, 0.5, 1.0]), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&[0.0, 0.0005, 0.001]), ["0", "0.0005", "0.0010"]);
        assert_eq!(labels(&[0.0, 50_000.0, 100_000.0, 150_000.0]), ["0", "5e4", "1e5", "1.5e5"]);
        assert_eq!(labels(&[-2e-30, 0.0, 2e-30]), ["-2e-30", "0", "2e-30"]);
        assert_eq!(labels(&[1.000_01, 1.000_02]), ["1.00001", "1.00002"]);
        assert_eq!(labels(&[]), [""; 0]);
    }
}
