//! Depthwise convolution (one input channel for each group).
//!
//! An image plane is copied once into zero-bordered *phases*: for stride s the columns and rows
//! with the same remainder modulo s lie together. Every kernel tap is then one contiguous run over
//! the whole plane, whatever the stride, dilation and padding. The run includes a few positions
//! beyond the right edge of each row; they are never read back.

use super::Conv2dShape;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Placement of a plane's phases in a buffer.
struct Phases {
    /// Distance of rows in a phase, and of rows in the pitched output.
    pitch: usize,
    /// Elements of one phase.
    len: usize,
    /// Start of each kernel tap's run.
    taps: Vec<usize>,
    /// Elements of a run: the pitched output.
    run: usize,
}

impl Phases {
    fn new(s: &Conv2dShape) -> Self {
        let [sy, sx] = s.stride;
        let [height, width] = s.padding.padded(s.in_height, s.in_width);
        let (rows, pitch) = (height.div_ceil(sy), width.div_ceil(sx));
        // A run starts inside the phase and may pass its end by less than one row.
        let len = (rows + 1) * pitch;
        let taps = (0..s.kernel[0])
            .flat_map(|ky| (0..s.kernel[1]).map(move |kx| (ky * s.dilation[0], kx * s.dilation[1])))
            .map(|(y, x)| (y % sy * sx + x % sx) * len + y / sy * pitch + x / sx)
            .collect();
        Self { pitch, len, taps, run: s.out_height() * pitch }
    }

    fn buffer_len(&self, s: &Conv2dShape) -> usize {
        s.stride[0] * s.stride[1] * self.len
    }

    /// Calls `body(pixel of the plane, position in the buffer, step in the plane, count)` for each
    /// run of pixels of one row and phase.
    #[inline(always)]
    fn for_each_run(&self, s: &Conv2dShape, mut body: impl FnMut(usize, usize, usize, usize)) {
        let [sy, sx] = s.stride;
        for y in 0..s.in_height {
            let py = y + s.padding.top;
            for phase in 0..sx.min(s.in_width) {
                let px = phase + s.padding.left;
                let at = (py % sy * sx + px % sx) * self.len + py / sy * self.pitch + px / sx;
                body(y * s.in_width + phase, at, sx, (s.in_width - phase).div_ceil(sx));
            }
        }
    }

    #[inline(always)]
    fn split(&self, s: &Conv2dShape, plane: &[f32], buffer: &mut [f32]) {
        self.for_each_run(s, |from, to, step, count| {
            let to = &mut buffer[to..to + count];
            if step == 1 {
                to.copy_from_slice(&plane[from..from + count]);
            } else {
                for (t, v) in to.iter_mut().zip(plane[from..].iter().step_by(step)) {
                    *t = *v;
                }
            }
        });
    }

    #[inline(always)]
    fn join(&self, s: &Conv2dShape, buffer: &[f32], plane: &mut [f32]) {
        self.for_each_run(s, |to, from, step, count| {
            let from = &buffer[from..from + count];
            for (t, v) in plane[to..].iter_mut().step_by(step).zip(from) {
                *t = *v;
            }
        });
    }
}

/// Copies rows of `width` into rows `pitch` apart; what lies between them stays as it is.
#[inline(always)]
fn spread(plane: &[f32], width: usize, pitch: usize, out: &mut [f32]) {
    for (row, out) in plane.chunks_exact(width).zip(out.chunks_exact_mut(pitch)) {
        out[..width].copy_from_slice(row);
    }
}

pub(super) fn forward(s: &Conv2dShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let phases = Phases::new(s);
    let (plane, ow) = (s.in_height * s.in_width, s.out_width());
    let (ocg, taps) = (s.out_per_group(), s.taps());
    let init = || (vec![0.0; phases.buffer_len(s)], vec![0.0; phases.run]);
    out.par_chunks_mut((ocg * s.out_height() * ow).max(1)).enumerate().for_each_init(
        init,
        |(buffer, pitched), (i, out)| {
            vectorize(
                #[inline(always)]
                || {
                    phases.split(s, &x[i * plane..][..plane], buffer);
                    for (m, out) in out.chunks_exact_mut(s.out_height() * ow).enumerate() {
                        let channel = i % s.groups * ocg + m;
                        let w = &weight[channel * taps..][..taps];
                        sum_of_taps(&phases, buffer, w, bias.map_or(0.0, |b| b[channel]), pitched);
                        for (row, out) in pitched.chunks_exact(phases.pitch).zip(out.chunks_exact_mut(ow)) {
                            out.copy_from_slice(&row[..ow]);
                        }
                    }
                },
            );
        },
    );
}

/// `out[i] = start + sum over taps of weight * buffer[tap start + i]`.
#[inline(always)]
fn sum_of_taps(phases: &Phases, buffer: &[f32], weight: &[f32], start: f32, out: &mut [f32]) {
    const BLOCK: usize = 64;
    let mut chunks = out.chunks_exact_mut(BLOCK);
    let mut at = 0;
    for chunk in &mut chunks {
        let mut sum = [start; BLOCK];
        for (w, tap) in weight.iter().zip(&phases.taps) {
            let from = &buffer[tap + at..][..BLOCK];
            for l in 0..BLOCK {
                sum[l] = w.mul_add(from[l], sum[l]);
            }
        }
        chunk.copy_from_slice(&sum);
        at += BLOCK;
    }
    let rest = chunks.into_remainder();
    rest.fill(start);
    for (w, tap) in weight.iter().zip(&phases.taps) {
        for (o, v) in rest.iter_mut().zip(&buffer[tap + at..]) {
            *o = w.mul_add(*v, *o);
        }
    }
}

pub(super) fn backward_input(s: &Conv2dShape, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    let phases = Phases::new(s);
    let (oh, ow) = (s.out_height(), s.out_width());
    let (ocg, taps) = (s.out_per_group(), s.taps());
    let init = || (vec![0.0; phases.buffer_len(s)], vec![0.0; phases.run]);
    dx.par_chunks_mut((s.in_height * s.in_width).max(1)).enumerate().for_each_init(
        init,
        |(buffer, pitched), (i, dx)| {
            vectorize(
                #[inline(always)]
                || {
                    buffer.fill(0.0);
                    for m in 0..ocg {
                        spread(&grad[(i * ocg + m) * oh * ow..][..oh * ow], ow, phases.pitch, pitched);
                        let channel = i % s.groups * ocg + m;
                        for (w, tap) in weight[channel * taps..].iter().zip(&phases.taps) {
                            for (b, g) in buffer[*tap..].iter_mut().zip(pitched.iter()) {
                                *b = w.mul_add(*g, *b);
                            }
                        }
                    }
                    phases.join(s, buffer, dx);
                },
            );
        },
    );
}

/// Each task owns one channel and goes through the images in order.
pub(super) fn backward_weight(s: &Conv2dShape, x: &[f32], grad: &[f32], dw: &mut [f32]) {
    let phases = Phases::new(s);
    let (plane, oh, ow) = (s.in_height * s.in_width, s.out_height(), s.out_width());
    let (ocg, taps) = (s.out_per_group(), s.taps());
    let init = || (vec![0.0; phases.buffer_len(s)], vec![0.0; phases.run]);
    dw.par_chunks_mut(ocg * taps).enumerate().for_each_init(init, |(buffer, pitched), (channel, dw)| {
        vectorize(
            #[inline(always)]
            || {
                let mut sums = vec![0.0_f64; dw.len()];
                for n in 0..s.batch {
                    let i = n * s.groups + channel;
                    phases.split(s, &x[i * plane..][..plane], buffer);
                    for m in 0..ocg {
                        spread(&grad[(i * ocg + m) * oh * ow..][..oh * ow], ow, phases.pitch, pitched);
                        for (sum, tap) in sums[m * taps..].iter_mut().zip(&phases.taps) {
                            *sum += f64::from(dot(pitched, &buffer[*tap..]));
                        }
                    }
                }
                for (d, sum) in dw.iter_mut().zip(sums) {
                    *d = sum as f32;
                }
            },
        );
    });
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [0.0_f32; LANES];
    let whole = a.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let (a, b) = (&a[i..i + LANES], &b[i..i + LANES]);
        for l in 0..LANES {
            lanes[l] = a[l].mul_add(b[l], lanes[l]);
        }
    }
    let mut sum = lanes.iter().sum::<f32>();
    for (a, b) in a[whole..].iter().zip(&b[whole..]) {
        sum = a.mul_add(*b, sum);
    }
    sum
}
