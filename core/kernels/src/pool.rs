//! Max and average pooling over NCHW planes.

use crate::conv::{Conv2dShape, Padding};
use rayon::prelude::*;

/// Sizes of a pooling of `planes` image planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dShape {
    /// Images times channels.
    pub planes: usize,
    /// Input height.
    pub in_height: usize,
    /// Input width.
    pub in_width: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding of each side.
    pub padding: Padding,
    /// Also take windows that begin inside the padded image and end beyond it.
    pub ceil_mode: bool,
    /// Count padding pixels in the divisor of an average.
    pub count_include_pad: bool,
}

impl Pool2dShape {
    fn out(&self, axis: usize) -> usize {
        let size = [self.in_height, self.in_width][axis];
        let (k, s, [before, after]) = (self.kernel[axis], self.stride[axis], self.padding.along(axis));
        let span = size + before + after - k;
        if !self.ceil_mode {
            return span / s + 1;
        }
        // PyTorch: the last window must begin inside the image or its left padding.
        let out = span.div_ceil(s) + 1;
        if (out - 1) * s >= size + before {
            out - 1
        } else {
            out
        }
    }

    /// Output height.
    pub fn out_height(&self) -> usize {
        self.out(0)
    }

    /// Output width.
    pub fn out_width(&self) -> usize {
        self.out(1)
    }

    /// The same window as the geometry of a convolution, for its checks.
    pub fn as_conv(&self) -> Conv2dShape {
        Conv2dShape {
            batch: 1,
            in_channels: 1,
            in_height: self.in_height,
            in_width: self.in_width,
            out_channels: 1,
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Pixels of the image under output position `o` of `axis`, and how many pixels the window
    /// covers when those of the padding count.
    #[inline(always)]
    pub(crate) fn window(&self, axis: usize, o: usize) -> (std::ops::Range<usize>, usize) {
        let size = [self.in_height, self.in_width][axis];
        let [before, after] = self.padding.along(axis);
        let start = o * self.stride[axis];
        let end = (start + self.kernel[axis]).min(size + before + after);
        let inside = start.saturating_sub(before)..end.saturating_sub(before).min(size);
        (inside, end - start)
    }

    /// Pixels of the image under output position `position` of an axis: 0 is height, 1 is width.
    #[inline(always)]
    pub(crate) fn pixels(&self, axis: usize, position: usize) -> std::ops::Range<usize> {
        self.window(axis, position).0
    }

    /// Output positions of an axis whose windows have pixel `pixel` of the image in them.
    #[inline(always)]
    pub(crate) fn windows(&self, axis: usize, pixel: usize) -> std::ops::Range<usize> {
        let (kernel, stride) = (self.kernel[axis], self.stride[axis]);
        let at = pixel + self.padding.along(axis)[0];
        let first = (at + 1).saturating_sub(kernel).div_ceil(stride);
        first..(at / stride + 1).min(self.out(axis)).max(first)
    }

    /// Number of pixels that the average of a window is divided by: those of the image, or all of it, whose sizes are
    /// `inside` and `covered`.
    #[inline(always)]
    pub(crate) fn divisor(&self, inside: [usize; 2], covered: [usize; 2]) -> usize {
        let [height, width] = if self.count_include_pad { covered } else { inside };
        height * width
    }

    fn for_each_window(&self, mut body: impl FnMut(usize, std::ops::Range<usize>, std::ops::Range<usize>, usize)) {
        let (oh, ow) = (self.out_height(), self.out_width());
        for y in 0..oh {
            let (rows, height) = self.window(0, y);
            for x in 0..ow {
                let (columns, width) = self.window(1, x);
                let count = self.divisor([rows.len(), columns.len()], [height, width]);
                body(y * ow + x, rows.clone(), columns, count);
            }
        }
    }
}

/// The largest pixel of each window; the padding never wins.
pub fn max_forward(s: &Pool2dShape, x: &[f32], out: &mut [f32]) {
    per_plane(s, x, out, |plane, out| {
        s.for_each_window(|o, rows, columns, _| {
            let mut best = f32::NEG_INFINITY;
            for y in rows {
                for v in &plane[y * s.in_width..][columns.clone()] {
                    if *v > best || v.is_nan() {
                        best = *v;
                    }
                }
            }
            out[o] = best;
        });
    });
}

/// Gives each window's gradient to the first pixel that equals its maximum.
pub fn max_backward(s: &Pool2dShape, x: &[f32], grad: &[f32], dx: &mut [f32]) {
    let (size, out) = (s.in_height * s.in_width, s.out_height() * s.out_width());
    dx.par_chunks_mut(size.max(1)).enumerate().for_each(|(i, dx)| {
        let (plane, grad) = (&x[i * size..][..size], &grad[i * out..][..out]);
        dx.fill(0.0);
        s.for_each_window(|o, rows, columns, _| {
            let pixels = rows.flat_map(|y| columns.clone().map(move |x| y * s.in_width + x));
            let best = pixels.reduce(|a, b| if plane[b] > plane[a] { b } else { a });
            if let Some(best) = best {
                dx[best] += grad[o];
            }
        });
    });
}

/// The average of each window.
pub fn average_forward(s: &Pool2dShape, x: &[f32], out: &mut [f32]) {
    per_plane(s, x, out, |plane, out| {
        s.for_each_window(|o, rows, columns, count| {
            let sum: f64 =
                rows.map(|y| plane[y * s.in_width..][columns.clone()].iter().map(|v| f64::from(*v)).sum::<f64>()).sum();
            out[o] = (sum / count as f64) as f32;
        });
    });
}

/// Spreads each window's gradient evenly over its pixels.
pub fn average_backward(s: &Pool2dShape, grad: &[f32], dx: &mut [f32]) {
    let (size, out) = (s.in_height * s.in_width, s.out_height() * s.out_width());
    dx.par_chunks_mut(size.max(1)).enumerate().for_each(|(i, dx)| {
        let grad = &grad[i * out..][..out];
        dx.fill(0.0);
        s.for_each_window(|o, rows, columns, count| {
            for y in rows {
                for v in &mut dx[y * s.in_width..][columns.clone()] {
                    *v += grad[o] / count as f32;
                }
            }
        });
    });
}

fn per_plane(s: &Pool2dShape, x: &[f32], out: &mut [f32], body: impl Fn(&[f32], &mut [f32]) + Sync) {
    let size = s.in_height * s.in_width;
    out.par_chunks_mut((s.out_height() * s.out_width()).max(1))
        .enumerate()
        .for_each(|(i, out)| body(&x[i * size..][..size], out));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Pool2dShape = Pool2dShape {
        planes: 1,
        in_height: 4,
        in_width: 4,
        kernel: [3, 3],
        stride: [2, 2],
        padding: Padding { top: 1, bottom: 1, left: 1, right: 1 },
        ceil_mode: false,
        count_include_pad: true,
    };

    #[test]
    fn windows_follow_pytorch() {
        let x: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let mut out = vec![0.0; 4];
        max_forward(&SHAPE, &x, &mut out);
        assert_eq!(out, [5.0, 7.0, 13.0, 15.0]);
        average_forward(&SHAPE, &x, &mut out);
        assert_eq!(out[0], 10.0 / 9.0);
        average_forward(&Pool2dShape { count_include_pad: false, ..SHAPE }, &x, &mut out);
        assert_eq!(out[0], 2.5);
        // torch.nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=True) of a 4x4 image is 3x3.
        let ceil = Pool2dShape { ceil_mode: true, ..SHAPE };
        assert_eq!((ceil.out_height(), ceil.out_width()), (3, 3));
        let mut out = vec![0.0; 9];
        max_forward(&ceil, &x, &mut out);
        assert_eq!(out, [5.0, 7.0, 7.0, 13.0, 15.0, 15.0, 13.0, 15.0, 15.0]);
        // The window at the corner covers one pixel and one column and row of padding.
        average_forward(&ceil, &x, &mut out);
        assert_eq!(out[8], 15.0 / 4.0);
    }

    #[test]
    fn sides_may_differ() {
        // TensorFlow's SAME padding of a window of 3 with stride 2 on 4 pixels: nothing before, one pixel after.
        let padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };
        let x: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let mut out = vec![0.0; 4];
        max_forward(&Pool2dShape { padding, ..SHAPE }, &x, &mut out);
        assert_eq!(out, [10.0, 11.0, 14.0, 15.0]);
        average_forward(&Pool2dShape { padding, count_include_pad: false, ..SHAPE }, &x, &mut out);
        assert_eq!(out, [5.0, 6.5, 11.0, 12.5]);
        average_forward(&Pool2dShape { padding, ..SHAPE }, &x, &mut out);
        assert_eq!(out[3], 50.0 / 9.0);
    }

    #[test]
    fn gradients_are_adjoint() {
        let uneven = Padding { top: 0, bottom: 1, left: 1, right: 0 };
        let ceil = Pool2dShape { ceil_mode: true, count_include_pad: false, ..SHAPE };
        for shape in [SHAPE, ceil, Pool2dShape { padding: uneven, ..SHAPE }] {
            let x: Vec<f32> = (0..16).map(|v| ((v * 7) % 16) as f32).collect();
            let n = shape.out_height() * shape.out_width();
            let grad: Vec<f32> = (0..n).map(|v| v as f32 + 1.0).collect();
            let (mut out, mut dx) = (vec![0.0; n], vec![0.0; 16]);
            average_forward(&shape, &x, &mut out);
            average_backward(&shape, &grad, &mut dx);
            let a: f32 = out.iter().zip(&grad).map(|(a, b)| a * b).sum();
            let b: f32 = x.iter().zip(&dx).map(|(a, b)| a * b).sum();
            assert!((a - b).abs() < 1e-3, "{a} {b}");
            max_forward(&shape, &x, &mut out);
            max_backward(&shape, &x, &grad, &mut dx);
            let a: f32 = out.iter().zip(&grad).map(|(a, b)| a * b).sum();
            let b: f32 = x.iter().zip(&dx).map(|(a, b)| a * b).sum();
            assert_eq!(a, b);
        }
    }
}
