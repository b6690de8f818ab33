//! Spreads the error of each rounded weight over the weights that are not rounded yet.

use qdrop_core::kernels::simd::vectorize;
use rayon::prelude::*;

/// Share of the mean second moment that is added to all of them (GPTQ, section 3.3): without it, columns that depend on each
/// other linearly could take any error.
const DAMPING: f64 = 0.01;
/// Rows that are computed by one thread at least.
const ROWS: usize = 16;

/// The upper triangular matrix R with R R^T = H, where H are the damped second moments. Its inverse is the factor U of the
/// paper: the upper Cholesky factor of the inverse of H (U^T U = H^-1).
pub struct Factor {
    values: Vec<f64>,
    columns: usize,
}

impl Factor {
    /// Of the second moments X X^T. `None` if they are all zero.
    pub fn of(moments: &[f64]) -> Option<Self> {
        let n = moments.len().isqrt();
        let mut values = moments.to_vec();
        let damping = DAMPING * values.iter().step_by(n + 1).sum::<f64>() / n as f64;
        if damping <= 0.0 {
            return None;
        }
        values.iter_mut().step_by(n + 1).for_each(|v| *v += damping);
        for j in (0..n).rev() {
            let (above, row) = values.split_at_mut(j * n);
            let row = &mut row[..n];
            // Rounding errors cannot outweigh the damping by much.
            row[j] = (row[j] - dot(&row[j + 1..], &row[j + 1..])).max(1e-3 * damping).sqrt();
            let (diagonal, later) = (row[j], &row[j + 1..]);
            above.par_chunks_mut(n).with_min_len(ROWS).for_each(|above| {
                above[j] = (above[j] - dot(&above[j + 1..], later)) / diagonal;
            });
        }
        Some(Self { values, columns: n })
    }

    /// The row of a column, from the diagonal on.
    fn row(&self, column: usize) -> &[f64] {
        &self.values[column * self.columns..][column..self.columns]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    vectorize(
        #[inline(always)]
        || {
            let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
            let mut sums = [0.0; 8];
            for (a, b) in a.0.iter().zip(b.0) {
                for i in 0..8 {
                    sums[i] += a[i] * b[i];
                }
            }
            let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
            sums.iter().sum::<f64>() + rest
        },
    )
}

/// Replaces filters, row by row, by the values of which GPTQ takes the nearest points of the grid, in the natural order of
/// columns.
///
/// The paper subtracts `e_j U_jk` with `e_j = (v_j - Q(v_j)) / U_jj` from every later column k. The errors `w - Q(v)` of the
/// original weights are then `e U`, so `e = (w - Q(v)) R`, and column j is
/// `v_j = w_j + sum over k < j of (w_k - Q(v_k)) R_kj / R_jj`, which needs no inverse.
pub fn compensate(filters: &mut [f32], factor: &Factor, nearest: impl Fn(usize, f32) -> f32 + Sync) {
    let n = factor.columns;
    filters.par_chunks_mut(n).enumerate().for_each(|(row, filter)| {
        let mut sums = vec![0.0; n];
        for (j, value) in filter.iter_mut().enumerate() {
            let (weight, of_column) = (f64::from(*value), factor.row(j));
            *value = (weight + sums[j] / of_column[0]) as f32;
            let error = weight - f64::from(nearest(row * n + j, *value));
            vectorize(
                #[inline(always)]
                || sums[j + 1..].iter_mut().zip(&of_column[1..]).for_each(|(sum, r)| *sum += error * r),
            );
        }
    });
}
