//! The reconstruction loss (BRECQ, arXiv 2102.05426, with an identity Hessian).

use crate::segments::{for_each_piece, map_pieces};
use crate::simd::vectorize;

/// The sum of `(output - target)^2` in f64.
pub fn squared_error(output: &[f32], target: &[f32]) -> f64 {
    map_pieces(output.len(), |start, end| {
        vectorize(
            #[inline(always)]
            || {
                let mut lanes = [0.0_f64; 16];
                let pairs = output[start..end].chunks(16).zip(target[start..end].chunks(16));
                for (o, t) in pairs {
                    for (lane, (o, t)) in lanes.iter_mut().zip(o.iter().zip(t)) {
                        let d = o - t;
                        *lane += f64::from(d * d);
                    }
                }
                lanes.iter().sum::<f64>()
            },
        )
    })
    .into_iter()
    .sum()
}

/// Gradient of [`squared_error`] with respect to `output`, times `factor`.
pub fn squared_error_backward(output: &[f32], target: &[f32], factor: f32, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        let (o, t) = (&output[first..][..out.len()], &target[first..][..out.len()]);
        vectorize(
            #[inline(always)]
            || {
                for (d, (o, t)) in out.iter_mut().zip(o.iter().zip(t)) {
                    *d = 2.0 * factor * (o - t);
                }
            },
        );
    });
}
