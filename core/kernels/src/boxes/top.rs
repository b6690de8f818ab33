//! The best scores of a list.

use std::cmp::Ordering;

/// The order of scores from best to worst. Those that are not numbers come first and equal each other.
pub fn descending(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Logistic function `1 / (1 + e^-x)`.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Places of the `k` best scores, best first; all of them if there are fewer.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut all: Vec<(f32, usize)> = scores.iter().copied().zip(0..).collect();
    keep_best(&mut all, k);
    all.into_iter().map(|(_, place)| place).collect()
}

/// Keeps the `k` best of scores with their places, best first.
pub(super) fn keep_best(all: &mut Vec<(f32, usize)>, k: usize) {
    // Places differ, so the order is total, and sorts need not be stable.
    let order = |a: &(f32, usize), b: &(f32, usize)| descending(a.0, b.0).then(a.1.cmp(&b.1));
    if k < all.len() {
        all.select_nth_unstable_by(k, order);
        all.truncate(k);
    }
    all.sort_unstable_by(order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_keep_their_order() {
        let scores = [0.5, 0.9, 0.5, f32::NAN, 0.1, 0.9, 0.5, -0.0, 0.0];
        assert_eq!(top_k(&scores, 9), [3, 1, 5, 0, 2, 6, 4, 7, 8]);
        assert_eq!(top_k(&scores, 5), [3, 1, 5, 0, 2]);
        assert_eq!(top_k(&scores, 99).len(), 9);
        assert!(top_k(&scores, 0).is_empty() && top_k(&[], 3).is_empty());
    }
}
