//! Two-dimensional convolution: forward, and its gradients for the input and for the weight.
//!
//! Arrays are NCHW, weights (out channels, in channels / groups, kernel height, kernel width).
//! Depthwise convolutions go through `depthwise`, all others through matrix products
//! (`matmul`); [`mod@reference`] is the definition both are tested against.

mod depthwise;
mod matmul;
pub mod reference;
mod shape;
mod window;

pub use shape::{Conv2dShape, Padding, ShapeError};

/// Writes the convolution of `x` with `weight`, plus `bias` where there is one, to `out`.
pub fn forward(shape: &Conv2dShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    shape.check(x, weight, out);
    if shape.is_depthwise() {
        depthwise::forward(shape, x, weight, bias, out);
    } else {
        matmul::forward(shape, x, weight, bias, out);
    }
}

/// Writes the gradient with respect to the input to `dx`, given that of the output.
pub fn backward_input(shape: &Conv2dShape, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    shape.check(dx, weight, grad);
    if shape.is_depthwise() {
        depthwise::backward_input(shape, weight, grad, dx);
    } else {
        matmul::backward_input(shape, weight, grad, dx);
    }
}

/// Writes the gradient with respect to the weight to `dw`, given that of the output.
pub fn backward_weight(shape: &Conv2dShape, x: &[f32], grad: &[f32], dw: &mut [f32]) {
    shape.check(x, dw, grad);
    if shape.is_depthwise() {
        depthwise::backward_weight(shape, x, grad, dw);
    } else {
        matmul::backward_weight(shape, x, grad, dw);
    }
}

/// Sums the gradient over images and positions: the gradient of the bias.
pub fn backward_bias(shape: &Conv2dShape, grad: &[f32], db: &mut [f32]) {
    let plane = shape.out_height() * shape.out_width();
    let mut sums = vec![0.0_f64; shape.out_channels];
    for (i, plane) in grad.chunks_exact(plane.max(1)).enumerate() {
        sums[i % shape.out_channels] += plane.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    for (b, s) in db.iter_mut().zip(sums) {
        *b = s as f32;
    }
}

#[cfg(test)]
mod tests;
