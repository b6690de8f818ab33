//! A clip at 0 and at a bound of each channel: ReLU6 of a network whose channels were scaled.

use crate::segments::{for_each_piece, Channels};
use crate::simd::vectorize;

/// `min(max(x, 0), bound)`.
#[inline(always)]
pub fn value(x: f32, bound: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > bound {
        bound
    } else {
        x
    }
}

/// The derivative with respect to x; 0 at both kinks, as that of ReLU6 in PyTorch.
#[inline(always)]
pub fn derivative(x: f32, bound: f32) -> f32 {
    if (x > 0.0) & (x < bound) {
        1.0
    } else {
        0.0
    }
}

/// `out = min(max(x, 0), bound)`; `bound` has one element for each channel.
pub fn forward(x: &[f32], bound: &[f32], channels: Channels, out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (channel, start, end) in channels.runs(first, first + out.len()) {
                    let bound = bound[channel];
                    for (o, v) in out[start - first..end - first].iter_mut().zip(&x[start..end]) {
                        *o = value(*v, bound);
                    }
                }
            },
        );
    });
}

/// The gradient of x from that of the result, `grad`.
pub fn backward(x: &[f32], bound: &[f32], channels: Channels, grad: &[f32], out: &mut [f32]) {
    for_each_piece(out, |first, out| {
        vectorize(
            #[inline(always)]
            || {
                for (channel, start, end) in channels.runs(first, first + out.len()) {
                    let bound = bound[channel];
                    let run = out[start - first..end - first].iter_mut();
                    for ((o, v), g) in run.zip(&x[start..end]).zip(&grad[start..end]) {
                        *o = g * derivative(*v, bound);
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::testing::uniform;

    #[test]
    fn every_channel_has_its_bound() {
        // More values than a piece has, and kinks among them.
        let (count, inner) = (7, 2999);
        let channels = Channels { count, inner };
        let bound = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut x = uniform(2 * count * inner, -2.0..8.0, 3);
        for (i, v) in x.iter_mut().enumerate().step_by(5) {
            *v = if i % 2 == 0 { 0.0 } else { bound[i / inner % count] };
        }
        let grad = uniform(x.len(), -1.0..1.0, 4);
        let [mut value, mut gradient] = [vec![0.0; x.len()], vec![0.0; x.len()]];
        forward(&x, &bound, channels, &mut value);
        backward(&x, &bound, channels, &grad, &mut gradient);
        for (i, v) in x.iter().enumerate() {
            let bound = bound[i / inner % count];
            assert_eq!(value[i], v.clamp(0.0, bound), "{v}, bound {bound}");
            let inside = *v > 0.0 && *v < bound;
            assert_eq!(gradient[i], if inside { grad[i] } else { 0.0 }, "{v}, bound {bound}");
        }
    }

    #[test]
    fn a_bound_of_6_is_relu6() {
        let x = [uniform(1000, -3.0..9.0, 5), vec![0.0, 6.0, -0.0]].concat();
        for v in x {
            assert_eq!(value(v, 6.0).to_bits(), Activation::Relu6.value(v).to_bits(), "{v}");
            assert_eq!(derivative(v, 6.0), Activation::Relu6.derivative(v), "{v}");
        }
    }
}
