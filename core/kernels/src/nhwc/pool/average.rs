//! Average pooling.

use super::super::each::{each_row, put, row_of};
use super::super::layout::{Read, Write, Written};
use crate::pool::Pool2dShape;

/// The average of each window, channel by channel. `shape` has the sizes of one plane.
pub fn average_pool(shape: &Pool2dShape, x: Read<'_>, (out, layout): Written<'_>) {
    let channels = layout.channels;
    each_row(
        (out, layout),
        #[inline(always)]
        |[image, row], line| {
            let (rows, height) = shape.window(0, row);
            for (column, sum) in line.chunks_exact_mut(channels).enumerate() {
                let (columns, width) = shape.window(1, column);
                sum.fill(0.0);
                for y in rows.clone() {
                    for pixel in
                        row_of(x, [image, y])[columns.start * channels..columns.end * channels].chunks_exact(channels)
                    {
                        put(Write::Add, sum, pixel, |v| v);
                    }
                }
                let factor = 1.0 / shape.divisor([rows.len(), columns.len()], [height, width]) as f32;
                for s in sum.iter_mut() {
                    *s *= factor;
                }
            }
        },
    );
}

/// The gradient of what [`average_pool`] reads, from that of its value. Every pixel sums over the windows that it lies in.
pub fn average_pool_backward(shape: &Pool2dShape, gradient: Read<'_>, write: Write, (out, layout): Written<'_>) {
    let channels = layout.channels;
    each_row(
        (out, layout),
        #[inline(always)]
        |[image, y], line| {
            if write == Write::Replace {
                line.fill(0.0);
            }
            for row in shape.windows(0, y) {
                let (rows, height) = shape.window(0, row);
                for (column, g) in row_of(gradient, [image, row]).chunks_exact(channels).enumerate() {
                    let (columns, width) = shape.window(1, column);
                    let factor = 1.0 / shape.divisor([rows.len(), columns.len()], [height, width]) as f32;
                    for pixel in line[columns.start * channels..columns.end * channels].chunks_exact_mut(channels) {
                        put(Write::Add, pixel, g, |g| g * factor);
                    }
                }
            }
        },
    );
}
