//! How far values moved.

/// The largest change of a value, relative to the largest one before; NaN if a value is not a number.
pub(crate) fn relative_change(before: &[f32], after: &[f32]) -> f64 {
    let size = before.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let changes = before.iter().zip(after).map(|(b, a)| a - b);
    let change = changes.fold(0.0_f32, |m, d| if m.is_nan() || d.is_nan() { f32::NAN } else { m.max(d.abs()) });
    if change == 0.0 {
        0.0
    } else {
        f64::from(change) / f64::from(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_relative_and_what_is_no_number_is_seen() {
        assert_eq!(relative_change(&[1.0, -4.0], &[1.5, -4.0]), 0.125);
        assert_eq!(relative_change(&[0.0; 2], &[0.0; 2]), 0.0);
        assert_eq!(relative_change(&[0.0; 2], &[0.0, 1.0]), f64::INFINITY);
        for (before, after) in [([1.0, 2.0], [f32::NAN, 2.0]), ([f32::NAN, 2.0], [1.0, 3.0])] {
            assert!(relative_change(&before, &after).is_nan());
        }
    }
}
