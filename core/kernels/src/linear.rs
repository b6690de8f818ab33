//! The fully connected layer: `y = x * weight^T + bias`.
//!
//! `x` is (batch, inputs), `weight` (outputs, inputs), `y` (batch, outputs), all row by row.

use crate::gemm::{multiply, Matrix};
use rayon::prelude::*;

/// Rows of the result that one task computes. Fixed, so that results do not depend on threads.
const ROWS: usize = 16;

/// Sizes of a fully connected layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// Number of samples.
    pub batch: usize,
    /// Input features.
    pub inputs: usize,
    /// Output features.
    pub outputs: usize,
}

/// Writes `x * weight^T + bias` to `out`.
pub fn forward(s: LinearShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    out.par_chunks_mut((ROWS * s.outputs).max(1)).zip(x.par_chunks((ROWS * s.inputs).max(1))).for_each(|(out, x)| {
        if let Some(bias) = bias {
            out.chunks_exact_mut(s.outputs).for_each(|row| row.copy_from_slice(bias));
        }
        let sizes = (out.len() / s.outputs, s.inputs, s.outputs);
        let weight = Matrix::columns(weight, s.inputs);
        multiply(sizes, Matrix::rows(x, s.inputs), weight, out, s.outputs, bias.is_some());
    });
}

/// Writes the gradient with respect to `x`.
pub fn backward_input(s: LinearShape, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    dx.par_chunks_mut((ROWS * s.inputs).max(1)).zip(grad.par_chunks((ROWS * s.outputs).max(1))).for_each(|(dx, g)| {
        let sizes = (dx.len() / s.inputs, s.outputs, s.inputs);
        multiply(sizes, Matrix::rows(g, s.outputs), Matrix::rows(weight, s.inputs), dx, s.inputs, false);
    });
}

/// Writes the gradient with respect to the weight.
pub fn backward_weight(s: LinearShape, x: &[f32], grad: &[f32], dw: &mut [f32]) {
    dw.par_chunks_mut((ROWS * s.inputs).max(1)).enumerate().for_each(|(i, dw)| {
        let sizes = (dw.len() / s.inputs, s.batch, s.inputs);
        let grad = Matrix { data: &grad[i * ROWS..], row_stride: 1, column_stride: s.outputs };
        multiply(sizes, grad, Matrix::rows(x, s.inputs), dw, s.inputs, false);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn agrees_with_the_definition() {
        let s = LinearShape { batch: 37, inputs: 21, outputs: 19 };
        let x = testing::uniform(s.batch * s.inputs, -1.0..1.0, 1);
        let w = testing::uniform(s.outputs * s.inputs, -1.0..1.0, 2);
        let g = testing::uniform(s.batch * s.outputs, -1.0..1.0, 3);
        let b: Vec<f32> = (0..s.outputs).map(|i| i as f32).collect();
        let mut y = vec![0.0; s.batch * s.outputs];
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        forward(s, &x, &w, Some(&b), &mut y);
        backward_input(s, &w, &g, &mut dx);
        backward_weight(s, &x, &g, &mut dw);
        for n in 0..s.batch {
            for o in 0..s.outputs {
                let want: f32 = b[o] + (0..s.inputs).map(|i| x[n * s.inputs + i] * w[o * s.inputs + i]).sum::<f32>();
                assert!((y[n * s.outputs + o] - want).abs() < 1e-4);
            }
            for i in 0..s.inputs {
                let want: f32 = (0..s.outputs).map(|o| g[n * s.outputs + o] * w[o * s.inputs + i]).sum();
                assert!((dx[n * s.inputs + i] - want).abs() < 1e-4);
            }
        }
        for o in 0..s.outputs {
            for i in 0..s.inputs {
                let want: f32 = (0..s.batch).map(|n| g[n * s.outputs + o] * x[n * s.inputs + i]).sum();
                assert!((dw[o * s.inputs + i] - want).abs() < 1e-4);
            }
        }
    }
}
