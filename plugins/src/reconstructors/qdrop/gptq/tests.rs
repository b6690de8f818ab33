use super::*;
use qdrop_core::kernels::rounding::round_half_even;
use qdrop_core::kernels::testing::{normal, uniform};

/// Of a symmetric positive definite matrix, the inverse (Gauss and Jordan).
fn inverse(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = matrix.len();
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|i| matrix[i].iter().copied().chain((0..n).map(|j| if i == j { 1.0 } else { 0.0 })).collect())
        .collect();
    for i in 0..n {
        let pivot = rows[i][i];
        rows[i].iter_mut().for_each(|v| *v /= pivot);
        let own = rows[i].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(k, _)| *k != i) {
            let factor = row[i];
            row.iter_mut().zip(&own).for_each(|(v, o)| *v -= factor * o);
        }
    }
    rows.into_iter().map(|row| row[n..].to_vec()).collect()
}

/// The upper Cholesky factor U of a matrix: U^T U is the matrix.
fn upper(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = matrix.len();
    let mut u = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in i..n {
            let sum: f64 = (0..i).map(|k| u[k][i] * u[k][j]).sum();
            u[i][j] = if i == j { (matrix[i][i] - sum).sqrt() } else { (matrix[i][j] - sum) / u[i][i] };
        }
    }
    u
}

/// GPTQ as the paper has it, with the inverse of H.
fn reference(weight: &[f32], moments: &[f64], nearest: impl Fn(usize, f32) -> f32) -> Vec<f64> {
    let n = moments.len().isqrt();
    let mut h: Vec<Vec<f64>> = moments.chunks(n).map(<[f64]>::to_vec).collect();
    let damping = 0.01 * (0..n).map(|i| h[i][i]).sum::<f64>() / n as f64;
    (0..n).for_each(|i| h[i][i] += damping);
    let u = upper(&inverse(&h));
    let mut all = Vec::new();
    for (row, filter) in weight.chunks(n).enumerate() {
        let mut v: Vec<f64> = filter.iter().map(|w| f64::from(*w)).collect();
        for j in 0..n {
            let error = (v[j] - f64::from(nearest(row * n + j, v[j] as f32))) / u[j][j];
            (j + 1..n).for_each(|k| v[k] -= error * u[j][k]);
        }
        all.extend(v);
    }
    all
}

/// X X^T of rows of positions.
fn products(x: &[f32], n: usize) -> Vec<f64> {
    let mut sums = vec![0.0; n * n];
    for x in x.chunks(n) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(x[i / n]) * f64::from(x[i % n]);
        }
    }
    sums
}

/// Inputs whose columns depend on each other, as the channels of an image do.
fn correlated(positions: usize, n: usize) -> Vec<f32> {
    let (few, own) = (normal(positions * 3, 1), normal(positions * n, 2));
    let mixing = uniform(3 * n, -1.0..1.0, 3);
    let at = |i: usize| {
        let (p, c) = (i / n, i % n);
        (0..3).map(|k| few[p * 3 + k] * mixing[k * n + c]).sum::<f32>() + 0.1 * own[i]
    };
    (0..positions * n).map(at).collect()
}

/// Rounds to multiples of 0.25.
fn quarter(_: usize, value: f32) -> f32 {
    round_half_even(value * 4.0) / 4.0
}

#[test]
fn values_are_those_of_the_papers_formula() {
    for n in [1, 2, 9, 41] {
        let (x, weight) = (correlated(4 * n + 5, n), uniform(7 * n, -1.0..1.0, 4));
        let moments = products(&x, n);
        let got = started(&weight, std::slice::from_ref(&moments), quarter);
        let want = reference(&weight, &moments, quarter);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{n} columns, weight {i}: {got} {want}");
        }
    }
}

#[test]
fn a_small_example_is_as_computed_by_hand() {
    // H = [[100, 80], [80, 100]] and 1 of damping. Rounding 0.4 to 0 leaves an error of 0.4, which moves the second weight by
    // 0.4 * 80 / 101 to 0.716832. It is rounded up to 1, and the output's error is [0.4, -0.6] H [0.4, -0.6]^T = 13.6,
    // where nearest rounding leaves [0.4, 0.4] H [0.4, 0.4]^T = 57.6.
    let moments = [100.0, 80.0, 80.0, 100.0];
    let got = started(&[0.4, 0.4], &[moments.to_vec()], |_, v| round_half_even(v));
    assert_eq!(got[0], 0.4);
    assert!((got[1] - 0.716_831_7).abs() < 1e-6, "{got:?}");
}

#[test]
fn on_correlated_inputs_the_output_changes_less_than_with_nearest_rounding() {
    let (n, positions) = (24, 400);
    let (x, weight) = (correlated(positions, n), uniform(16 * n, -1.0..1.0, 4));
    let values = started(&weight, &[products(&x, n)], quarter);
    let error = |values: &[f32]| -> f64 {
        let errors: Vec<f64> =
            values.iter().zip(&weight).map(|(v, w)| f64::from(quarter(0, *v)) - f64::from(*w)).collect();
        let of = |filter: &[f64], x: &[f32]| filter.iter().zip(x).map(|(e, x)| e * f64::from(*x)).sum::<f64>().powi(2);
        errors.chunks(n).map(|filter| x.chunks(n).map(|x| of(filter, x)).sum::<f64>()).sum()
    };
    assert!(error(&values) < 0.5 * error(&weight), "{} {}", error(&values), error(&weight));
}

#[test]
fn groups_have_moments_of_their_own_and_a_dead_group_stays() {
    let weight = uniform(2 * 3 * 2, -1.0..1.0, 5);
    let moments = products(&correlated(20, 3), 3);
    let got = started(&weight, &[vec![0.0; 9], moments.clone()], quarter);
    assert_eq!(got[..6], weight[..6]);
    assert_eq!(got[6..], started(&weight[6..], &[moments], quarter));
    assert!(got[6..] != weight[6..]);
}
