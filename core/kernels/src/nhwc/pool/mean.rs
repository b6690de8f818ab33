//! The mean over all pixels of an image.

use super::super::each::{each_row, put, row_of};
use super::super::layout::{Read, Write, Written};
use super::super::parts::Parts;
use crate::simd::vectorize;
use rayon::prelude::*;

/// The mean over all pixels of each image, channel by channel; `out` has one pixel.
pub fn mean((x, x_layout): Read<'_>, (out, layout): Written<'_>) {
    let channels = layout.channels;
    let factor = 1.0 / (x_layout.height * x_layout.width) as f32;
    let out = Parts::new(out);
    (0..layout.batch).into_par_iter().for_each(|image| {
        // SAFETY: every task writes an image of its own.
        let sum = unsafe { out.take(layout.offset(image, 0), channels) };
        sum.fill(0.0);
        vectorize(
            #[inline(always)]
            || {
                for row in 0..x_layout.height {
                    for pixel in row_of((x, x_layout), [image, row]).chunks_exact(channels) {
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
    });
}

/// The gradient of what [`mean`] reads, from that of its value, which has one pixel.
pub fn mean_backward(gradient: Read<'_>, write: Write, (out, layout): Written<'_>) {
    let channels = layout.channels;
    let factor = 1.0 / (layout.height * layout.width) as f32;
    each_row(
        (out, layout),
        #[inline(always)]
        |[image, _], line| {
            let gradient = &row_of(gradient, [image, 0])[..channels];
            for pixel in line.chunks_exact_mut(channels) {
                put(write, pixel, gradient, |g| g * factor);
            }
        },
    );
}
