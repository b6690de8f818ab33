//! Depthwise convolution: every channel has a kernel of its own. Weights have the order (ky, kx, channel).

use super::layout::Layout;
use super::parts::Parts;
use super::pointer::{Interleaved, ReadPointer};
use crate::conv::Conv2dShape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Number of parts into which the channels are divided for the gradient of the weight.
const PARTS: usize = 8;
/// Most taps of a kernel's row or column.
const MOST_WIDTH: usize = 7;
/// Vectors of channels whose gradients are summed in one pass over the pixels.
const TOGETHER: usize = 4;
/// Most taps of a kernel.
const MOST_TAPS: usize = MOST_WIDTH * MOST_WIDTH;

/// Whether these kernels compute a convolution.
pub fn is_depthwise(shape: &Conv2dShape) -> bool {
    let each = shape.groups > 1 && shape.groups == shape.in_channels && shape.groups == shape.out_channels;
    each && shape.kernel[0].max(shape.kernel[1]) <= MOST_WIDTH
}

/// `out = conv(x, weight) + bias`; the border of `x` is at least the padding.
pub fn depthwise_forward(
    shape: &Conv2dShape,
    (x, x_layout): (&[f32], Layout),
    weight: &[f32],
    bias: Option<&[f32]>,
    (out, out_layout): (&mut [f32], Layout),
) {
    assert!(x_layout.border >= shape.padding.left, "a border as wide as the padding");
    let out = Parts::new(out);
    let rows = out_layout.height;
    (0..out_layout.batch * rows).into_par_iter().with_min_len(2).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        let at = |ky: usize| {
            let y = (row * shape.stride[0] + ky * shape.dilation[0]) as isize - shape.padding.top as isize;
            let inside = y >= 0 && y < x_layout.height as isize;
            // The first tap reads the padding to the left of the first pixel.
            inside.then(|| x_layout.offset(image, y as usize) - shape.padding.left * x_layout.channels)
        };
        // SAFETY: every task writes a row of its own.
        let out = unsafe { out.take(out_layout.offset(image, row), out_layout.values()) };
        let step = shape.stride[1] * x_layout.channels;
        Arch::new().dispatch(Forward { shape, x, at: &at, step, weight, bias, out });
    });
}

struct Forward<'a> {
    shape: &'a Conv2dShape,
    x: &'a [f32],
    /// Position of the first pixel under each kernel row, where that row lies in the image.
    at: &'a dyn Fn(usize) -> Option<usize>,
    step: usize,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.shape.in_channels;
        let [height, width] = self.shape.kernel;
        let mut taps = [(0, 0); MOST_TAPS];
        let mut count = 0;
        for ky in 0..height {
            if let Some(at) = (self.at)(ky) {
                for kx in 0..width {
                    taps[count] = (at + kx * self.shape.dilation[1] * channels, (ky * width + kx) * channels);
                    count += 1;
                }
            }
        }
        correlate(simd, self.x, &taps[..count], self.step, self.weight, self.bias, self.out, channels, channels);
    }
}

/// For each pixel of a row: the sum over taps of image times weight, channel by channel. A tap is a
/// position in the image, for the row's first pixel, and one in the weights.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn correlate<S: Simd>(
    simd: S,
    x: &[f32],
    taps: &[(usize, usize)],
    step: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
    out_step: usize,
    channels: usize,
) {
    let pixels = (out.len() - channels) / out_step + 1;
    let reach = (pixels - 1) * step + channels;
    // A position before the image is a large number here.
    let inside = |at: usize| at.checked_add(reach).is_some_and(|end| end <= x.len());
    assert!(taps.iter().all(|(at, w)| inside(*at) && w + channels <= weight.len()), "outside of the image");
    assert!(bias.is_none_or(|b| b.len() >= channels));
    let row = Row { x, taps, step, weight, bias, out_step, channels, pixels };
    macro_rules! counts {
        ($($n:literal)*) => {
            // SAFETY: checked above.
            match taps.len() { $($n => unsafe { row.correlate::<S, $n>(simd, out) },)* _ => row.correlate_any(simd, out) }
        };
    }
    // The taps of a 3 x 3 kernel; at the border, or with a stride of 2, some are left out.
    counts!(1 2 3 4 6 9)
}

/// A row to be computed, whose taps were found to lie inside the image.
struct Row<'a> {
    x: &'a [f32],
    taps: &'a [(usize, usize)],
    step: usize,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    out_step: usize,
    channels: usize,
    pixels: usize,
}

impl Row<'_> {
    /// With `N` taps, whose weights stay in registers.
    ///
    /// # Safety
    /// The row was checked, `out` holds its pixels, and there are `N` taps.
    #[inline(always)]
    unsafe fn correlate<S: Simd, const N: usize>(&self, simd: S, out: &mut [f32]) {
        let len = out.len();
        let out = Interleaved::new(out).at(0, len);
        for channel in (0..self.channels).step_by(S::F32_LANES) {
            let lanes = self.channels - channel;
            // SAFETY: promised by the caller; `lanes` channels are left.
            unsafe {
                let bias = |b| ReadPointer::new(b, channel).lanes(simd, lanes);
                let first = self.bias.map_or(simd.splat_f32s(0.0), bias);
                let weights: [S::f32s; N] =
                    std::array::from_fn(|i| ReadPointer::new(self.weight, self.taps[i].1 + channel).lanes(simd, lanes));
                let from: [ReadPointer<'_>; N] =
                    std::array::from_fn(|i| ReadPointer::new(self.x, self.taps[i].0 + channel));
                for pixel in 0..self.pixels {
                    let mut sum = first;
                    for i in 0..N {
                        let x = from[i].add(pixel * self.step).lanes(simd, lanes);
                        sum = simd.mul_add_e_f32s(x, weights[i], sum);
                    }
                    out.add(pixel * self.out_step + channel).store_lanes(simd, lanes, sum);
                }
            }
        }
    }

    /// With any number of taps.
    #[inline(always)]
    fn correlate_any<S: Simd>(&self, simd: S, out: &mut [f32]) {
        for channel in (0..self.channels).step_by(S::F32_LANES) {
            let lanes = (self.channels - channel).min(S::F32_LANES);
            let part = |values: &[f32], at: usize| simd.partial_load_f32s(&values[at + channel..][..lanes]);
            for pixel in 0..self.pixels {
                let mut sum = self.bias.map_or(simd.splat_f32s(0.0), |b| part(b, 0));
                for (at, w) in self.taps {
                    sum = simd.mul_add_e_f32s(part(self.x, at + pixel * self.step), part(self.weight, *w), sum);
                }
                simd.partial_store_f32s(&mut out[pixel * self.out_step + channel..][..lanes], sum);
            }
        }
    }
}

/// The gradient with respect to the input. The border of `grad` is at least that of
/// [`border_of_gradient`](super::border_of_gradient).
pub fn depthwise_backward_input(
    shape: &Conv2dShape,
    (grad, grad_layout): (&[f32], Layout),
    weight: &[f32],
    (dx, dx_layout): (&mut [f32], Layout),
) {
    let channels = shape.in_channels;
    let [sy, sx] = shape.stride;
    let dx = Parts::new(dx);
    let rows = dx_layout.height;
    (0..dx_layout.batch * rows).into_par_iter().with_min_len(2).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        // SAFETY: every task writes a row of its own.
        let out = unsafe { dx.take(dx_layout.offset(image, row), dx_layout.values()) };
        for phase in 0..sx.min(dx_layout.width) {
            let mut taps = [(0, 0); MOST_TAPS];
            let mut count = 0;
            for ky in 0..shape.kernel[0] {
                let y = (row + shape.padding.top) as isize - (ky * shape.dilation[0]) as isize;
                let hit = y >= 0 && y % sy as isize == 0 && y / (sy as isize) < grad_layout.height as isize;
                if !hit {
                    continue;
                }
                let at = grad_layout.offset(image, y as usize / sy) as isize;
                for kx in 0..shape.kernel[1] {
                    let x = (phase + shape.padding.left) as isize - (kx * shape.dilation[1]) as isize;
                    if x.rem_euclid(sx as isize) == 0 {
                        let at = at + x.div_euclid(sx as isize) * channels as isize;
                        taps[count] = (at as usize, (ky * shape.kernel[1] + kx) * channels);
                        count += 1;
                    }
                }
            }
            let last = (dx_layout.width - 1 - phase) / sx * sx + phase;
            let out = &mut out[phase * channels..(last + 1) * channels];
            Arch::new().dispatch(Phase { grad, taps: &taps[..count], channels, weight, out, out_step: sx * channels });
        }
    });
}

struct Phase<'a> {
    grad: &'a [f32],
    taps: &'a [(usize, usize)],
    channels: usize,
    weight: &'a [f32],
    out: &'a mut [f32],
    out_step: usize,
}

impl WithSimd for Phase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let c = self.channels;
        correlate(simd, self.grad, self.taps, c, self.weight, None, self.out, self.out_step, c);
    }
}

/// Adds the gradient with respect to the weights to `out`, or replaces it.
pub fn depthwise_backward_weight(
    shape: &Conv2dShape,
    x: (&[f32], Layout),
    grad: (&[f32], Layout),
    out: &mut [f32],
    replace: bool,
) {
    assert!(shape.kernel[0] * shape.kernel[1] <= MOST_TAPS && out.len() == shape.weight_len());
    assert!(x.1.border >= shape.padding.left, "a border as wide as the padding");
    let channels = shape.in_channels;
    let vectors = channels.div_ceil(16);
    let parts = PARTS.min(vectors);
    let out = Interleaved::new(out);
    (0..parts).into_par_iter().for_each(|i| {
        let range = 16 * (i * vectors / parts)..(16 * ((i + 1) * vectors / parts)).min(channels);
        Arch::new().dispatch(Weights { shape, x, grad, out, range, replace });
    });
}

struct Weights<'a> {
    shape: &'a Conv2dShape,
    x: (&'a [f32], Layout),
    grad: (&'a [f32], Layout),
    out: Interleaved<'a>,
    /// Channels of this task.
    range: std::ops::Range<usize>,
    replace: bool,
}

impl WithSimd for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for image in 0..self.grad.1.batch {
            let replace = self.replace && image == 0;
            let mut channel = self.range.start;
            while channel < self.range.end {
                // Several vectors of a pixel are read together.
                let whole = self.range.end - channel >= TOGETHER * S::F32_LANES;
                if whole && self.shape.kernel[1] == 3 {
                    self.image::<S, TOGETHER, 3>(simd, image, channel, replace);
                    channel += TOGETHER * S::F32_LANES;
                } else {
                    self.image::<S, 1, MOST_WIDTH>(simd, image, channel, replace);
                    channel += S::F32_LANES;
                }
            }
        }
    }
}

impl Weights<'_> {
    /// What one image adds to the kernels of `V` vectors of channels; a kernel's row has at most `K` taps.
    #[inline(always)]
    fn image<S: Simd, const V: usize, const K: usize>(&self, simd: S, image: usize, channel: usize, replace: bool) {
        let ((x, x_layout), (grad, grad_layout)) = (self.x, self.grad);
        let channels = x_layout.channels;
        // Lanes of the last vector; the vectors before it are whole.
        let lanes = (self.range.end - channel).min(S::F32_LANES);
        let used = (V - 1) * S::F32_LANES + lanes;
        let [height, width] = self.shape.kernel;
        assert!(width <= K);
        let step = self.shape.stride[1] * channels;
        for ky in 0..height {
            let mut sums = [[simd.splat_f32s(0.0); V]; K];
            let place = |kx: usize| (ky * width + kx) * channels + channel;
            // Tasks have channels of their own.
            let out = |kx: usize| self.out.at(place(kx), used);
            if !replace {
                for (kx, sums) in sums.iter_mut().enumerate().take(width) {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: these lanes are this task's.
                        *sum = unsafe { out(kx).add(v * S::F32_LANES).lanes(simd, lanes) };
                    }
                }
            }
            for row in 0..grad_layout.height {
                let y = (row * self.shape.stride[0] + ky * self.shape.dilation[0]) as isize
                    - self.shape.padding.top as isize;
                if y < 0 || y >= x_layout.height as isize {
                    continue;
                }
                let at = x_layout.offset(image, y as usize) - self.shape.padding.left * channels + channel;
                let from = grad_layout.offset(image, row) + channel;
                let pixels = grad_layout.width;
                let reach = (pixels - 1) * step + (width - 1) * self.shape.dilation[1] * channels;
                assert!(at + reach + used <= x.len());
                assert!(from + (pixels - 1) * channels + used <= grad.len());
                for pixel in 0..pixels {
                    // SAFETY: checked above.
                    unsafe {
                        let from = ReadPointer::new(grad, from + pixel * channels);
                        let g: [S::f32s; V] = std::array::from_fn(|v| from.add(v * S::F32_LANES).lanes(simd, lanes));
                        for (kx, sums) in sums.iter_mut().enumerate().take(width) {
                            let tap = ReadPointer::new(x, at + pixel * step + kx * self.shape.dilation[1] * channels);
                            for (v, sum) in sums.iter_mut().enumerate() {
                                *sum = simd.mul_add_e_f32s(g[v], tap.add(v * S::F32_LANES).lanes(simd, lanes), *sum);
                            }
                        }
                    }
                }
            }
            for (kx, sums) in sums.iter().enumerate().take(width) {
                for (v, sum) in sums.iter().enumerate() {
                    // SAFETY: these lanes are this task's.
                    unsafe { out(kx).add(v * S::F32_LANES).store_lanes(simd, lanes, *sum) };
                }
            }
        }
    }
}
