//! The peak rate of floating-point operations, with which the rates of other kernels are compared.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::time::Instant;

/// Independent sums: enough to hide the latency of an addition, few enough for the registers.
const SUMS: usize = 12;
/// Additions to each of them.
const ROUNDS: usize = 1 << 20;
/// Measurements, of which the best counts.
const REPEATS: usize = 7;

struct Sums;

impl WithSimd for Sums {
    /// The number of operations, and a result that keeps the compiler from removing them.
    type Output = (f64, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let factor = simd.splat_f32s(std::hint::black_box(0.999));
        let mut sums = [factor; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        let total = sums.into_iter().fold(factor, |a, b| simd.add_f32s(a, b));
        ((2 * SUMS * ROUNDS * S::F32_LANES) as f64, simd.reduce_sum_f32s(total))
    }
}

/// Measures the fused multiply-adds of all threads: 10^9 floating-point operations in a second, two for each.
pub fn gigaflops() -> f64 {
    let threads = rayon::current_num_threads();
    let best = (0..REPEATS).map(|_| {
        let start = Instant::now();
        let done: f64 = (0..threads)
            .into_par_iter()
            .with_max_len(1)
            .map(|_| {
                let (operations, value) = Arch::new().dispatch(Sums);
                std::hint::black_box(value);
                operations
            })
            .sum();
        done / start.elapsed().as_secs_f64() / 1e9
    });
    best.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_operations_take_some_time() {
        let peak = super::gigaflops();
        assert!(peak.is_finite() && peak > 0.0, "{peak}");
    }
}
