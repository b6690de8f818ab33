//! Gathering the pixels under one kernel tap.

use super::Conv2dShape;
use std::ops::Range;

impl Conv2dShape {
    /// Output columns whose tap `kx` falls inside the image, and the input column of the first.
    #[inline(always)]
    pub(super) fn columns_inside(&self, kx: usize) -> (Range<usize>, usize) {
        inside(self.out_width(), self.in_width, self.stride[1], kx * self.dilation[1], self.padding.left)
    }

    /// The input row under tap `ky` of output row `y`, if it is inside the image.
    #[inline(always)]
    pub(super) fn row_inside(&self, y: usize, ky: usize) -> Option<usize> {
        let row = (y * self.stride[0] + ky * self.dilation[0]).checked_sub(self.padding.top)?;
        (row < self.in_height).then_some(row)
    }
}

fn inside(out: usize, size: usize, stride: usize, offset: usize, pad: usize) -> (Range<usize>, usize) {
    let first = pad.saturating_sub(offset).div_ceil(stride).min(out);
    // The last output position o satisfies o * stride + offset - pad <= size - 1.
    let end = (size + pad).saturating_sub(offset).div_ceil(stride).min(out).max(first);
    (first..end, (first * stride + offset).saturating_sub(pad).min(size))
}

/// Copies output rows `rows` of the image's patches: row (channel, ky, kx) of `col` holds, for
/// each output position of these rows, the input pixel under that tap (0 outside the image).
pub(super) fn gather(shape: &Conv2dShape, image: &[f32], channels: Range<usize>, rows: Range<usize>, col: &mut [f32]) {
    let ow = shape.out_width();
    let plane = shape.in_height * shape.in_width;
    let mut lines = col.chunks_exact_mut(rows.len() * ow);
    for c in channels {
        let image = &image[c * plane..][..plane];
        for ky in 0..shape.kernel[0] {
            for kx in 0..shape.kernel[1] {
                let Some(line) = lines.next() else { return };
                let (inside, first) = shape.columns_inside(kx);
                for (y, out) in rows.clone().zip(line.chunks_exact_mut(ow)) {
                    let Some(row) = shape.row_inside(y, ky) else {
                        out.fill(0.0);
                        continue;
                    };
                    out[..inside.start].fill(0.0);
                    out[inside.end..].fill(0.0);
                    let from = &image[row * shape.in_width..][..shape.in_width];
                    let out = &mut out[inside.clone()];
                    if shape.stride[1] == 1 {
                        out.copy_from_slice(&from[first..first + out.len()]);
                    } else {
                        for (o, v) in out.iter_mut().zip(from[first..].iter().step_by(shape.stride[1])) {
                            *o = *v;
                        }
                    }
                }
            }
        }
    }
}

/// The adjoint of [`gather`]: adds each patch element to the pixel that it came from.
pub(super) fn scatter(shape: &Conv2dShape, col: &[f32], channels: Range<usize>, rows: Range<usize>, image: &mut [f32]) {
    let ow = shape.out_width();
    let plane = shape.in_height * shape.in_width;
    let mut lines = col.chunks_exact(rows.len() * ow);
    for c in channels {
        let image = &mut image[c * plane..][..plane];
        for ky in 0..shape.kernel[0] {
            for kx in 0..shape.kernel[1] {
                let Some(line) = lines.next() else { return };
                let (inside, first) = shape.columns_inside(kx);
                for (y, line) in rows.clone().zip(line.chunks_exact(ow)) {
                    let Some(row) = shape.row_inside(y, ky) else { continue };
                    let to = &mut image[row * shape.in_width..][..shape.in_width];
                    let line = &line[inside.clone()];
                    if shape.stride[1] == 1 {
                        for (t, v) in to[first..first + line.len()].iter_mut().zip(line) {
                            *t += v;
                        }
                    } else {
                        for (t, v) in to[first..].iter_mut().step_by(shape.stride[1]).zip(line) {
                            *t += v;
                        }
                    }
                }
            }
        }
    }
}
