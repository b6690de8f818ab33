//! The definition of the convolution and its gradients, one multiplication at a time, in f64.

use super::Conv2dShape;

/// Calls `body(output index, input index, weight index)` for each product of the convolution.
fn for_each_product(s: &Conv2dShape, mut body: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (s.out_height(), s.out_width());
    let (icg, ocg) = (s.in_per_group(), s.out_per_group());
    for n in 0..s.batch {
        for oc in 0..s.out_channels {
            for y in 0..oh {
                for x in 0..ow {
                    for c in 0..icg {
                        for ky in 0..s.kernel[0] {
                            for kx in 0..s.kernel[1] {
                                let iy = y * s.stride[0] + ky * s.dilation[0];
                                let ix = x * s.stride[1] + kx * s.dilation[1];
                                if iy < s.padding.top || ix < s.padding.left {
                                    continue;
                                }
                                let (iy, ix) = (iy - s.padding.top, ix - s.padding.left);
                                if iy >= s.in_height || ix >= s.in_width {
                                    continue;
                                }
                                let ic = oc / ocg * icg + c;
                                body(
                                    ((n * s.out_channels + oc) * oh + y) * ow + x,
                                    ((n * s.in_channels + ic) * s.in_height + iy) * s.in_width + ix,
                                    ((oc * icg + c) * s.kernel[0] + ky) * s.kernel[1] + kx,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The convolution without bias.
pub fn forward(s: &Conv2dShape, x: &[f32], weight: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; s.output_len()];
    for_each_product(s, |o, i, w| out[o] += f64::from(x[i]) * f64::from(weight[w]));
    out
}

/// The gradient with respect to the input.
pub fn backward_input(s: &Conv2dShape, weight: &[f32], grad: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; s.input_len()];
    for_each_product(s, |o, i, w| out[i] += f64::from(grad[o]) * f64::from(weight[w]));
    out
}

/// The gradient with respect to the weight.
pub fn backward_weight(s: &Conv2dShape, x: &[f32], grad: &[f32]) -> Vec<f64> {
    let mut out = vec![0.0; s.weight_len()];
    for_each_product(s, |o, i, w| out[w] += f64::from(grad[o]) * f64::from(x[i]));
    out
}
