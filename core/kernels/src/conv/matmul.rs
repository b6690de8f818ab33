//! Convolution as matrix products over gathered patches.
//!
//! A batch is processed image by image and, within an image, in strips of output rows whose
//! patches fit the cache.

use super::window::{gather, scatter};
use super::Conv2dShape;
use crate::gemm::{multiply, Matrix};
use rayon::prelude::*;

/// Elements of a strip's patch matrix: 512 KiB, about half of a core's second-level cache.
const STRIP: usize = 128 * 1024;
/// Rows of the patch matrix that one task of the weight gradient handles.
const WEIGHT_ROWS: usize = 144;

fn strip_rows(shape: &Conv2dShape, patch: usize) -> usize {
    (STRIP / (patch * shape.out_width()).max(1)).clamp(1, shape.out_height())
}

pub(super) fn forward(s: &Conv2dShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let (oh, ow) = (s.out_height(), s.out_width());
    let (icg, ocg) = (s.in_per_group(), s.out_per_group());
    let patch = icg * s.taps();
    let in_image = s.in_channels * s.in_height * s.in_width;
    let rows = if s.is_pointwise() { oh } else { strip_rows(s, patch) };
    out.par_chunks_mut((s.out_channels * oh * ow).max(1)).enumerate().for_each_init(Vec::new, |col, (n, out)| {
        let image = &x[n * in_image..][..in_image];
        if let Some(bias) = bias {
            for (plane, b) in out.chunks_exact_mut(oh * ow).zip(bias) {
                plane.fill(*b);
            }
        }
        for g in 0..s.groups {
            let w = Matrix::rows(&weight[g * ocg * patch..], patch);
            for y in (0..oh).step_by(rows) {
                let strip = y..(y + rows).min(oh);
                let columns = strip.len() * ow;
                let patches = if s.is_pointwise() {
                    Matrix::rows(&image[g * icg * oh * ow..], oh * ow)
                } else {
                    col.resize(patch * columns, 0.0);
                    gather(s, image, g * icg..(g + 1) * icg, strip, col);
                    Matrix::rows(col, columns)
                };
                let out = &mut out[g * ocg * oh * ow + y * ow..];
                multiply((ocg, patch, columns), w, patches, out, oh * ow, bias.is_some());
            }
        }
    });
}

pub(super) fn backward_input(s: &Conv2dShape, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    let (oh, ow) = (s.out_height(), s.out_width());
    let (icg, ocg) = (s.in_per_group(), s.out_per_group());
    let patch = icg * s.taps();
    let out_image = s.out_channels * oh * ow;
    let rows = strip_rows(s, patch);
    dx.par_chunks_mut((s.in_channels * s.in_height * s.in_width).max(1)).enumerate().for_each_init(
        Vec::new,
        |col, (n, dx)| {
            let grad = &grad[n * out_image..][..out_image];
            if !s.is_pointwise() {
                dx.fill(0.0);
            }
            for g in 0..s.groups {
                let w = Matrix::columns(&weight[g * ocg * patch..], patch);
                if s.is_pointwise() {
                    let grad = Matrix::rows(&grad[g * ocg * oh * ow..], oh * ow);
                    multiply((icg, ocg, oh * ow), w, grad, &mut dx[g * icg * oh * ow..], oh * ow, false);
                    continue;
                }
                for y in (0..oh).step_by(rows) {
                    let strip = y..(y + rows).min(oh);
                    let columns = strip.len() * ow;
                    col.resize(patch * columns, 0.0);
                    let grad = Matrix::rows(&grad[g * ocg * oh * ow + y * ow..], oh * ow);
                    multiply((patch, ocg, columns), w, grad, col, columns, false);
                    scatter(s, col, g * icg..(g + 1) * icg, strip, dx);
                }
            }
        },
    );
}

/// Tasks own disjoint parts of the weight and go through the images in order, so that no sum
/// crosses a thread.
pub(super) fn backward_weight(s: &Conv2dShape, x: &[f32], grad: &[f32], dw: &mut [f32]) {
    let (oh, ow) = (s.out_height(), s.out_width());
    let (icg, ocg) = (s.in_per_group(), s.out_per_group());
    let patch = icg * s.taps();
    let (in_image, out_image) = (s.in_channels * s.in_height * s.in_width, s.out_channels * oh * ow);
    let channels = (WEIGHT_ROWS / s.taps()).clamp(1, icg);
    let tasks: Vec<(usize, usize)> =
        (0..s.groups).flat_map(|g| (0..icg).step_by(channels).map(move |c| (g, c))).collect();
    let parts: Vec<Vec<f32>> = tasks
        .par_iter()
        .map_init(Vec::new, |col, &(g, c)| {
            let block = c..(c + channels).min(icg);
            let height = block.len() * s.taps();
            let rows = if s.is_pointwise() { oh } else { strip_rows(s, height) };
            let mut sum = vec![0.0; height * ocg];
            for n in 0..s.batch {
                let image = &x[n * in_image..][..in_image];
                let first = g * icg + block.start;
                for y in (0..oh).step_by(rows) {
                    let strip = y..(y + rows).min(oh);
                    let columns = strip.len() * ow;
                    let patches = if s.is_pointwise() {
                        Matrix::rows(&image[first * oh * ow..], oh * ow)
                    } else {
                        col.resize(height * columns, 0.0);
                        gather(s, image, first..first + block.len(), strip, col);
                        Matrix::rows(col, columns)
                    };
                    let grad = &grad[n * out_image + g * ocg * oh * ow + y * ow..];
                    let grad = Matrix { data: grad, row_stride: 1, column_stride: oh * ow };
                    multiply((height, columns, ocg), patches, grad, &mut sum, ocg, true);
                }
            }
            sum
        })
        .collect();
    for ((g, c), part) in tasks.into_iter().zip(parts) {
        for (i, line) in part.chunks_exact(ocg).enumerate() {
            for (o, v) in line.iter().enumerate() {
                dw[(g * ocg + o) * patch + c * s.taps() + i] = *v;
            }
        }
    }
}
