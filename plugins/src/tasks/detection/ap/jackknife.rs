//! Standard errors by the delete-a-group jackknife.

/// Standard error of each figure, from its values without each group (Wolter, Introduction to Variance Estimation, 2nd
/// edition 2007, chapter 4). `None` if a value is missing.
pub(super) fn standard_errors<const N: usize>(without: &[[Option<f64>; N]]) -> [Option<f64>; N] {
    std::array::from_fn(|figure| {
        let values: Vec<f64> = without.iter().map(|values| values[figure]).collect::<Option<_>>()?;
        let groups = values.len() as f64;
        let mean = values.iter().sum::<f64>() / groups;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(((groups - 1.0) / groups * squares).sqrt())
    })
}
