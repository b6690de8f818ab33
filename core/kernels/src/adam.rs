//! The Adam update (arXiv 1412.6980, algorithm 1), in PyTorch's order of operations, except that a division by a
//! number that all elements share is a multiplication by its reciprocal.

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

/// The factors of one update, which all elements share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    gain1: f32,
    gain2: f32,
    decay2: f32,
    /// The reciprocal square root of the bias correction of the second moment.
    root: f32,
    rate: f32,
    epsilon: f32,
}

impl AdamStep {
    /// The factors of the update that all elements share: of the first moment's change, of the squared gradient, of the
    /// second moment; the reciprocal root of its bias correction, the corrected learning rate, and epsilon.
    pub fn factors(&self) -> [f32; 6] {
        let Rates { gain1, gain2, decay2, root, rate, epsilon } = self.rates();
        [gain1, gain2, decay2, root, rate, epsilon]
    }

    pub(crate) fn rates(&self) -> Rates {
        let correction1 = 1.0 - self.beta1.powi(self.step as i32);
        Rates {
            gain1: (1.0 - self.beta1) as f32,
            gain2: (1.0 - self.beta2) as f32,
            decay2: self.beta2 as f32,
            root: (1.0 - self.beta2.powi(self.step as i32)).sqrt().recip() as f32,
            rate: (self.learning_rate / correction1) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

impl Rates {
    /// Updates one element.
    #[inline(always)]
    pub fn apply(&self, p: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        *m += (g - *m) * self.gain1;
        *v = *v * self.decay2 + self.gain2 * g * g;
        *p -= self.rate * *m / (v.sqrt() * self.root + self.epsilon);
    }
}

/// Updates `parameter` and its two running means in place.
pub fn update(parameter: &mut [f32], grad: &[f32], mean: &mut [f32], square: &mut [f32], step: AdamStep) {
    let rates = step.rates();
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
                        rates.apply(&mut p[i], &mut m[i], &mut v[i], g[i]);
                    }
                },
            );
        });
}
