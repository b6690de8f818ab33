//! The passes of convolutions, and transposed images.

use super::{devices, on};
use qdrop_core::cuda::kernels;
use qdrop_core::kernels::conv::{reference, Conv2dShape, Padding};
use qdrop_core::kernels::testing::uniform;

/// Numbers in the order (A, pixels, B) of numbers in the order (A, B, pixels).
fn channels_last(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let images = values.chunks_exact(channels * pixels);
    images.flat_map(|x| (0..channels * pixels).map(move |i| x[i % channels * pixels + i / channels])).collect()
}

fn worst(got: &[f32], want: &[f64], channels: usize, pixels: usize) -> f64 {
    let want: Vec<f32> = want.iter().map(|v| *v as f32).collect();
    let want = channels_last(&want, channels, pixels);
    let size = want.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    f64::from(error / size)
}

#[test]
fn convolutions_of_every_geometry_are_those_of_their_definition() {
    let shape =
        |channels: [usize; 2], size: [usize; 2], kernel, stride: usize, sides: [usize; 4], groups, dilation: usize| {
            let [top, bottom, left, right] = sides;
            Conv2dShape {
                batch: 3,
                in_channels: channels[0],
                in_height: size[0],
                in_width: size[1],
                out_channels: channels[1],
                kernel,
                stride: [stride; 2],
                padding: Padding { top, bottom, left, right },
                dilation: [dilation; 2],
                groups,
            }
        };
    for s in [
        shape([70, 67], [5, 7], [3, 3], 1, [1; 4], 1, 1),
        shape([65, 33], [4, 4], [1, 1], 1, [0; 4], 1, 1),
        shape([8, 6], [9, 8], [3, 3], 2, [0, 1, 0, 1], 2, 1),
        shape([6, 9], [9, 11], [2, 3], 1, [2, 0, 1, 3], 3, 2),
        shape([4, 5], [11, 11], [7, 7], 3, [3; 4], 1, 1),
        shape([36, 36], [6, 7], [3, 3], 1, [1; 4], 36, 1),
        shape([8, 8], [9, 9], [3, 3], 2, [0, 1, 0, 1], 8, 1),
        shape([8, 8], [7, 6], [5, 5], 1, [2; 4], 8, 1),
        shape([40, 40], [9, 10], [5, 5], 2, [2; 4], 40, 1),
        shape([6, 6], [7, 7], [3, 3], 2, [1; 4], 6, 1),
        shape([8, 8], [9, 9], [5, 5], 1, [4; 4], 8, 2),
    ] {
        let x = uniform(s.input_len(), -1.0..1.0, 1);
        let w = uniform(s.weight_len(), -1.0..1.0, 2);
        let gy = uniform(s.output_len(), -1.0..1.0, 3);
        let (inside, outside) = (s.in_height * s.in_width, s.out_height() * s.out_width());
        let (inputs, taps) = (s.in_channels / s.groups, s.kernel[0] * s.kernel[1]);
        let [y, gx, gw] = [
            reference::forward(&s, &x, &w),
            reference::backward_input(&s, &w, &gy),
            reference::backward_weight(&s, &x, &gy),
        ];
        for d in devices() {
            let d = &*d;
            let [dx, dw] = [channels_last(&x, s.in_channels, inside), channels_last(&w, inputs, taps)];
            let dy = channels_last(&gy, s.out_channels, outside);
            let [dx, dw, dgy] = [dx, dw, dy].map(|values| on(d, &values));
            let [oy, ogx, ogw] = [s.output_len(), s.input_len(), s.weight_len()].map(|len| on(d, &vec![7.0; len]));
            let parts = on(d, &vec![7.0; kernels::weight_parts(&s) * s.weight_len()]);
            kernels::convolve(d, &s, &dx, &dw, &oy).unwrap();
            kernels::convolve_input(d, &s, &ogx, &dw, &dgy).unwrap();
            kernels::convolve_weight(d, &s, &dx, &ogw, &dgy, &parts).unwrap();
            let errors = [
                worst(&oy.to_vec(d).unwrap(), &y, s.out_channels, outside),
                worst(&ogx.to_vec(d).unwrap(), &gx, s.in_channels, inside),
                worst(&ogw.to_vec(d).unwrap(), &gw, inputs, taps),
            ];
            assert!(errors.iter().all(|e| *e < 2e-6), "{s:?}: {errors:?}");
        }
    }
}

#[test]
fn matrices_are_transposed() {
    for [batch, rows, columns] in [[1, 1, 1], [2, 33, 5], [3, 64, 31], [1, 7, 100]] {
        let values = uniform(batch * rows * columns, -1.0..1.0, 1);
        let want = channels_last(&values, rows, columns);
        for d in devices() {
            let (from, to) = (on(&*d, &values), on(&*d, &vec![0.0; want.len() + 3]));
            kernels::transpose(&*d, &from, &to, [batch, rows, columns], 3).unwrap();
            assert_eq!(to.to_vec(&*d).unwrap()[3..], want);
        }
    }
}
