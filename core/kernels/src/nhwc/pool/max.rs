//! Max pooling.

use super::super::each::{each_row, row_of};
use super::super::layout::{Read, Write, Written};
use super::super::parts::Parts;
use crate::pool::Pool2dShape;
use crate::simd::vectorize;
use rayon::prelude::*;

/// The most pixels of a window whose gradient [`max_pool_backward`] computes: the number of one of them is a byte.
pub const MOST_TAPS: usize = 256;

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

/// As [`max_pool`], and the number of the pixel in the window that gave each value: `taps` has one for each value of `out`,
/// in their order without borders. Of equal pixels it is the first.
///
/// # Panics
/// A window has more than [`MOST_TAPS`] pixels, or there is not room for all numbers.
pub fn max_pool_with_taps(shape: &Pool2dShape, x: Read<'_>, (out, layout): Written<'_>, taps: &mut [u8]) {
    assert!(shape.kernel.iter().product::<usize>() <= MOST_TAPS, "a window of {:?} pixels", shape.kernel);
    let (rows, channels) = (layout.height, layout.channels);
    assert_eq!(taps.len(), layout.batch * rows * layout.values(), "numbers of pixels");
    let out = Parts::new(out);
    taps.par_chunks_exact_mut(layout.values()).enumerate().for_each(|(i, taps)| {
        let (image, row) = (i / rows, i % rows);
        // SAFETY: every task writes a row of its own.
        let line = unsafe { out.take(layout.offset(image, row), layout.values()) };
        vectorize(
            #[inline(always)]
            || {
                let windows = line.chunks_exact_mut(channels).zip(taps.chunks_exact_mut(channels));
                for (column, (best, taps)) in windows.enumerate() {
                    best.fill(f32::NEG_INFINITY);
                    // Whatever the value of the first pixel is.
                    taps.fill(tap(
                        shape,
                        [row, column],
                        [0, 1].map(|axis| shape.pixels(axis, [row, column][axis]).start),
                    ));
                    for y in shape.pixels(0, row) {
                        let pixels = row_of(x, [image, y]);
                        for x_column in shape.pixels(1, column) {
                            let tap = tap(shape, [row, column], [y, x_column]);
                            let values = &pixels[x_column * channels..][..channels];
                            for ((best, t), v) in best.iter_mut().zip(taps.iter_mut()).zip(values) {
                                let larger = (*v > *best) | v.is_nan();
                                *best = if larger { *v } else { *best };
                                *t = if larger { tap } else { *t };
                            }
                        }
                    }
                }
            },
        );
    });
}

/// The number of a pixel of the image in the window at this place.
#[inline(always)]
fn tap(shape: &Pool2dShape, [row, column]: [usize; 2], [y, x]: [usize; 2]) -> u8 {
    let ky = (y + shape.padding.top).wrapping_sub(row * shape.stride[0]);
    let kx = (x + shape.padding.left).wrapping_sub(column * shape.stride[1]);
    (ky.wrapping_mul(shape.kernel[1])).wrapping_add(kx) as u8
}

/// The gradient of what [`max_pool_with_taps`] reads, from that of its value. Every pixel sums over the windows whose value it
/// gave.
///
/// # Panics
/// `taps` are not those of all values.
pub fn max_pool_backward(shape: &Pool2dShape, gradient: Read<'_>, taps: &[u8], write: Write, out: Written<'_>) {
    let (read, channels) = (gradient.1, out.1.channels);
    assert_eq!(taps.len(), read.batch * read.height * read.values(), "numbers of pixels");
    each_row(
        out,
        #[inline(always)]
        |[image, y], line| {
            if write == Write::Replace {
                line.fill(0.0);
            }
            for row in shape.windows(0, y) {
                let taps = &taps[(image * read.height + row) * read.values()..][..read.values()];
                let windows = row_of(gradient, [image, row]).chunks_exact(channels).zip(taps.chunks_exact(channels));
                for (column, (g, taps)) in windows.enumerate() {
                    for x in shape.pixels(1, column) {
                        let own = tap(shape, [row, column], [y, x]);
                        let pixel = &mut line[x * channels..][..channels];
                        for ((o, g), t) in pixel.iter_mut().zip(g).zip(taps) {
                            *o += if *t == own { *g } else { 0.0 };
                        }
                    }
                }
            }
        },
    );
}
