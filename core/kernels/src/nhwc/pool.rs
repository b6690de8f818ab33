//! Pooling of channels-last images.

use super::layout::{Read, Written};
use super::parts::Parts;
use crate::pool::Pool2dShape;
use crate::simd::vectorize;
use rayon::prelude::*;

/// The largest pixel of each window, channel by channel; the padding never wins. `shape` has the sizes of one
/// plane.
pub fn max_pool(shape: &Pool2dShape, (x, x_layout): Read<'_>, (out, layout): Written<'_>) {
    let (rows, channels) = (layout.height, layout.channels);
    let out = Parts::new(out);
    (0..layout.batch * rows).into_par_iter().for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        // SAFETY: every task writes a row of its own.
        let line = unsafe { out.take(layout.offset(image, row), layout.values()) };
        vectorize(
            #[inline(always)]
            || {
                for (column, best) in line.chunks_exact_mut(channels).enumerate() {
                    best.fill(f32::NEG_INFINITY);
                    for y in shape.pixels(0, row) {
                        for x_column in shape.pixels(1, column) {
                            let at = x_layout.offset(image, y) + x_column * channels;
                            largest(best, &x[at..at + channels]);
                        }
                    }
                }
            },
        );
    });
}

/// Takes the larger value of each pair. NaN wins, as in PyTorch.
#[inline(always)]
fn largest(best: &mut [f32], values: &[f32]) {
    for (b, v) in best.iter_mut().zip(values) {
        *b = if (*v > *b) | v.is_nan() { *v } else { *b };
    }
}

/// The mean over all pixels of each image, channel by channel; `out` has one pixel.
pub fn mean((x, x_layout): Read<'_>, (out, layout): Written<'_>) {
    let channels = layout.channels;
    let factor = 1.0 / (x_layout.height * x_layout.width) as f32;
    for image in 0..layout.batch {
        let at = layout.offset(image, 0);
        let sum = &mut out[at..at + channels];
        sum.fill(0.0);
        vectorize(
            #[inline(always)]
            || {
                for row in 0..x_layout.height {
                    for pixel in x[x_layout.offset(image, row)..][..x_layout.values()].chunks_exact(channels) {
                        for (s, v) in sum.iter_mut().zip(pixel) {
                            *s += v;
                        }
                    }
                }
                for s in sum.iter_mut() {
                    *s *= factor;
                }
            },
        );
    }
}

/// The gradient of what [`mean`] reads, from that of its value, which has one pixel.
pub fn mean_backward((gradient, one): Read<'_>, (out, layout): Written<'_>) {
    let (rows, channels) = (layout.height, layout.channels);
    let factor = 1.0 / (layout.height * layout.width) as f32;
    let out = Parts::new(out);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        // SAFETY: every task writes a row of its own.
        let line = unsafe { out.take(layout.offset(image, row), layout.values()) };
        let gradient = &gradient[one.offset(image, 0)..][..channels];
        for pixel in line.chunks_exact_mut(channels) {
            for (o, g) in pixel.iter_mut().zip(gradient) {
                *o = g * factor;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::{from_planes, to_planes, Buffer, Layout};
    use super::*;
    use crate::conv::Padding;
    use crate::pool::max_forward;

    #[test]
    fn pooling_agrees_with_that_of_planes() {
        for (channels, size, kernel, stride, padding) in [(5, 13, 3, 2, 1), (16, 8, 2, 2, 0), (3, 7, 7, 1, 3)] {
            let planes: Vec<f32> = (0..2 * channels * size * size).map(|i| (i * 7919 % 1009) as f32 - 500.0).collect();
            let shape = |planes| Pool2dShape {
                planes,
                in_height: size,
                in_width: size,
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: Padding::all(padding),
                ceil_mode: false,
                count_include_pad: true,
            };
            let all = shape(2 * channels);
            let (height, width) = (all.out_height(), all.out_width());
            let mut want = vec![0.0; 2 * channels * height * width];
            max_forward(&all, &planes, &mut want);
            let x = Layout { batch: 2, height: size, width: size, channels, border: 1 };
            let out = Layout { height, width, border: 2, ..x };
            let (mut values, mut pooled) = (Buffer::zeros(x.len()), Buffer::zeros(out.len()));
            for (p, image) in planes.chunks(channels * size * size).zip(values.chunks_exact_mut(x.image())) {
                from_planes(p, x, image);
            }
            max_pool(&shape(channels), (&values, x), (&mut pooled, out));
            let mut got = vec![0.0; want.len()];
            for (p, image) in got.chunks_mut(channels * height * width).zip(pooled.chunks_exact(out.image())) {
                to_planes(image, out, p);
            }
            assert_eq!(got, want);
            let one = Layout { height: 1, width: 1, border: 0, ..x };
            let mut means = Buffer::zeros(one.len());
            mean((&values, x), (&mut means, one));
            for (plane, mean) in planes.chunks(size * size).zip(means.iter()) {
                let want = plane.iter().sum::<f32>() / plane.len() as f32;
                assert!((mean - want).abs() < 1e-2, "{mean} {want}");
            }
            let mut spread = Buffer::zeros(x.len());
            mean_backward((&means, one), (&mut spread, x));
            let mut got = vec![0.0; planes.len()];
            for (p, image) in got.chunks_mut(channels * size * size).zip(spread.chunks_exact(x.image())) {
                to_planes(image, x, p);
            }
            for (plane, mean) in got.chunks(size * size).zip(means.iter()) {
                assert!(plane.iter().all(|g| *g == mean * (1.0 / plane.len() as f32)));
            }
        }
    }
}
