//! The Adam update (arXiv 1412.6980, algorithm 1), in PyTorch's order of operations.

use crate::segments::PIECE;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Hyper-parameters of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Number of this update, from 1.
    pub step: usize,
}

/// Updates `parameter` and its two running means in place.
pub fn update(parameter: &mut [f32], grad: &[f32], mean: &mut [f32], square: &mut [f32], step: AdamStep) {
    let (gain1, gain2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let decay2 = step.beta2 as f32;
    let correction1 = 1.0 - step.beta1.powi(step.step as i32);
    let correction2 = (1.0 - step.beta2.powi(step.step as i32)).sqrt() as f32;
    let rate = (step.learning_rate / correction1) as f32;
    let epsilon = step.epsilon as f32;
    parameter
        .par_chunks_mut(PIECE)
        .zip(grad.par_chunks(PIECE))
        .zip(mean.par_chunks_mut(PIECE))
        .zip(square.par_chunks_mut(PIECE))
        .for_each(|(((p, g), m), v)| {
            vectorize(
                #[inline(always)]
                || {
                    for i in 0..p.len() {
                        m[i] += (g[i] - m[i]) * gain1;
                        v[i] = v[i] * decay2 + gain2 * g[i] * g[i];
                        p[i] -= rate * m[i] / (v[i].sqrt() / correction2 + epsilon);
                    }
                },
            );
        });
}
