//! Convolution, backward to its weights.

use super::shared::Shared;
use super::tile::{fitting, load};
use super::{Layout, PackedShape, TILE};
use crate::conv::Conv2dShape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of image and gradient that stay in the cache while all tiles of weights pass over them.
const BLOCK: usize = 300_000;
/// Pixels of a row where rows can be cut anywhere.
const FLAT_ROW: usize = 56;
/// Least number of tasks.
const TASKS: usize = 8;

/// How the gradient of a convolution's weights is computed for given layouts.
#[derive(Debug, Clone)]
pub struct WeightPlan {
    shape: PackedShape,
    stride: usize,
    x: Layout,
    grad: Layout,
    /// For each row of the kernel: first and last row of the gradient whose tap lies in the image.
    rows: Vec<[usize; 2]>,
    /// For each column of the kernel: first and last pixel of a row whose tap lies in the image.
    columns: Vec<[usize; 2]>,
    /// For each tap (by kernel row and column): position in an image for row 0, pixel 0.
    taps: Vec<isize>,
    /// Elements of the image from one row of the gradient to the next.
    row_step: usize,
    /// Rows of a block.
    block: usize,
    /// Parts of the input channels that are separate tasks.
    splits: usize,
    /// Pixels in all, where rows are cut from the whole.
    flat: Option<usize>,
}

impl WeightPlan {
    /// For a convolution that reads `x`, whose border is at least the padding, with the gradient `grad`
    /// of its output.
    pub fn new(shape: &Conv2dShape, x: Layout, grad: Layout) -> Self {
        let packed = PackedShape::of(shape);
        let whole = shape.is_pointwise() && x.border == 0 && grad.border == 0;
        let pixels = grad.batch * grad.height * grad.width;
        let one_row = |l: Layout| Layout { batch: 1, height: pixels.div_ceil(FLAT_ROW), width: FLAT_ROW, ..l };
        let (x, grad, flat) = if whole { (one_row(x), one_row(grad), Some(pixels)) } else { (x, grad, None) };
        let [sy, sx] = shape.stride;
        let rows = (0..shape.kernel[0]).map(|ky| {
            let offset = (ky * shape.dilation[0]) as isize - shape.padding.top as isize;
            let inside = |r: &usize| (0..x.height as isize).contains(&((r * sy) as isize + offset));
            let first = (0..grad.height).find(inside).unwrap_or(0);
            [first, (0..grad.height).rfind(inside).map_or(first, |last| last + 1)]
        });
        let columns = (0..shape.kernel[1]).map(|kx| {
            let offset = (kx * shape.dilation[1]) as isize - shape.padding.left as isize;
            let inside = |p: &usize| (0..x.width as isize).contains(&((p * sx) as isize + offset));
            let first = (0..grad.width).find(inside).unwrap_or(0);
            [first, (0..grad.width).rfind(inside).map_or(first, |last| last + 1)]
        });
        let position = |ky: usize, kx: usize| {
            let y = (ky * shape.dilation[0] + x.border) as isize - shape.padding.top as isize;
            let column = (kx * shape.dilation[1] + x.border) as isize - shape.padding.left as isize;
            y * x.row() as isize + column * x.channels as isize
        };
        let kernel = (0..shape.kernel[0]).flat_map(|ky| (0..shape.kernel[1]).map(move |kx| (ky, kx)));
        let taps = kernel.map(|(ky, kx)| position(ky, kx)).collect();
        // Of one group: the tasks of a group read no other.
        let bytes = (sy * x.row() + grad.row()) * 4 / packed.groups;
        let tasks = packed.groups * packed.tiles() * packed.kernel[0];
        Self {
            shape: packed,
            stride: sx * x.channels,
            row_step: sy * x.row(),
            rows: rows.collect(),
            columns: columns.collect(),
            taps,
            block: (BLOCK / bytes.max(1)).clamp(1, grad.height),
            splits: TASKS.div_ceil(tasks).min(packed.inputs.div_ceil(8)).max(1),
            flat,
            x,
            grad,
        }
    }

    /// Adds the gradient to `out`, packed, or replaces it where `replace` is set.
    pub fn run(&self, x: &[f32], grad: &[f32], out: &mut [f32], replace: bool) {
        assert_eq!(out.len(), self.shape.len(), "weights");
        assert!(self.flat.is_some() || (x.len() >= self.x.len() && grad.len() >= self.grad.len()), "images");
        let all = self.shape.groups * self.shape.tiles() * self.shape.kernel[0] * self.splits;
        // Each weight is summed by one task in one order, however tasks are grouped.
        let groups = all.min(4 * rayon::current_num_threads());
        let out = Shared::new(out);
        (0..groups).into_par_iter().for_each(|i| {
            let tasks = i * all / groups..(i + 1) * all / groups;
            Arch::new().dispatch(Tasks { plan: self, x, grad, out, tasks, replace });
        });
    }

    /// As [`run`](Self::run), in the calling task, for the tiles `tiles` of every group.
    pub(super) fn run_alone(&self, x: &[f32], grad: &[f32], out: Shared<'_>, tiles: Range<usize>, replace: bool) {
        let each = self.shape.kernel[0] * self.splits;
        for group in 0..self.shape.groups {
            let first = group * self.shape.tiles();
            let tasks = (first + tiles.start) * each..(first + tiles.end) * each;
            Arch::new().dispatch(Tasks { plan: self, x, grad, out, tasks, replace });
        }
    }

    /// Pixels of a row of the gradient.
    fn pixels(&self, row: usize) -> usize {
        self.flat.map_or(self.grad.width, |all| FLAT_ROW.min(all - row * FLAT_ROW))
    }
}

struct Tasks<'a> {
    plan: &'a WeightPlan,
    x: &'a [f32],
    grad: &'a [f32],
    out: Shared<'a>,
    tasks: Range<usize>,
    replace: bool,
}

impl WithSimd for Tasks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let p = self.plan;
        let mut first = self.replace;
        for image in 0..p.grad.batch {
            for block in (0..p.grad.height).step_by(p.block) {
                for task in self.tasks.clone() {
                    self.task(simd, task, image, block, first);
                }
                first = false;
            }
        }
    }
}

impl Tasks<'_> {
    /// What one block of rows adds to one row of the kernel of one tile.
    #[inline(always)]
    fn task<S: Simd>(&self, simd: S, task: usize, image: usize, block: usize, replace: bool) {
        let (p, s) = (self.plan, &self.plan.shape);
        let (task, split) = (task / p.splits, task % p.splits);
        let (tile, ky) = (task / s.kernel[0], task % s.kernel[0]);
        let (group, first) = (tile / s.tiles(), tile % s.tiles() * TILE);
        let lanes = TILE.min(s.outputs - first);
        let [from, to] = p.rows[ky];
        let rows = from.max(block)..to.min((block + p.block).min(p.grad.height)).max(from.max(block));
        let inputs = split * s.inputs / p.splits..(split + 1) * s.inputs / p.splits;
        let sizes: &[usize] = if S::REGISTER_COUNT >= 32 { &[12, 10, 8, 6, 4, 2, 1] } else { &[6, 4, 2, 1] };
        for kx in 0..s.kernel[1] {
            let tap = ky * s.kernel[1] + kx;
            let mut input = inputs.start;
            while input < inputs.end {
                let left = inputs.end - input;
                // A size that divides what is left needs no small rest.
                let even = sizes.iter().copied().find(|s| *s >= 6 && left.is_multiple_of(*s));
                let count = even.unwrap_or_else(|| fitting(sizes, left));
                let place = tile * s.tile() + (tap * s.inputs + input) * TILE;
                // SAFETY: tasks differ in tile, kernel row or input channels.
                let out = unsafe { self.out.part(place, count * TILE) };
                let at = (image * p.x.image() + group * s.inputs + input) as isize + p.taps[tap];
                let grad = group * s.outputs + first;
                let sum = Sum {
                    plan: p,
                    x: self.x,
                    at,
                    grad: self.grad,
                    grad_at: grad,
                    image,
                    rows: rows.clone(),
                    columns: p.columns[kx],
                    lanes,
                    replace,
                };
                sum.check(count);
                let mut lane = 0;
                while lane < lanes {
                    let two = lanes - lane > S::F32_LANES;
                    // SAFETY: checked above.
                    unsafe {
                        match two {
                            true => dispatch::<S, 2>(simd, &sum, out, lane, count),
                            false => dispatch::<S, 1>(simd, &sum, out, lane, count),
                        }
                    }
                    lane += S::F32_LANES * if two { 2 } else { 1 };
                }
                input += count;
            }
        }
    }
}

/// The products of one tap over a block of rows.
struct Sum<'a> {
    plan: &'a WeightPlan,
    x: &'a [f32],
    /// Position for row 0, pixel 0; may lie before the image for rows that are not summed.
    at: isize,
    grad: &'a [f32],
    /// Channel of the gradient.
    grad_at: usize,
    image: usize,
    rows: Range<usize>,
    columns: [usize; 2],
    lanes: usize,
    replace: bool,
}

impl Sum<'_> {
    /// Positions of the first pixel of a row that counts, in image and gradient.
    #[inline(always)]
    fn row(&self, row: usize) -> (isize, usize) {
        let (plan, first) = (self.plan, self.columns[0]);
        let at = self.at + (row * plan.row_step + first * plan.stride) as isize;
        (at, plan.grad.offset(self.image, row) + self.grad_at + first * plan.grad.channels)
    }

    /// Pixels of a row that count.
    #[inline(always)]
    fn pixels(&self, row: usize) -> usize {
        let [first, end] = self.columns;
        end.min(self.plan.pixels(row)) - first
    }

    /// Checks that all that is read lies inside the slices.
    fn check(&self, inputs: usize) {
        let (Some(first), Some(last)) = (self.rows.clone().next(), self.rows.clone().last()) else { return };
        let Some(pixels) = self.pixels(last).checked_sub(1) else { return };
        let ((low, _), (high, grad)) = (self.row(first), self.row(last));
        assert!(low >= 0, "before the image");
        assert!(high as usize + pixels * self.plan.stride + inputs <= self.x.len(), "beyond the image");
        assert!(grad + pixels * self.plan.grad.channels + self.lanes <= self.grad.len(), "beyond the gradient");
    }
}

#[inline(always)]
unsafe fn dispatch<S: Simd, const V: usize>(simd: S, sum: &Sum<'_>, out: &mut [f32], lane: usize, count: usize) {
    macro_rules! tiles {
        ($($n:literal)*) => {
            // SAFETY: as the caller promises.
            match count { $($n => unsafe { tile::<S, $n, V>(simd, sum, out, lane) },)* _ => unreachable!() }
        };
    }
    if S::REGISTER_COUNT >= 32 {
        tiles!(1 2 4 6 8 10 12)
    } else {
        tiles!(1 2 4 6)
    }
}

/// `I` input channels times `V` vectors of output channels, over all pixels of the rows.
///
/// # Safety
/// The sum was checked for `I` input channels, and `out` holds as many lines.
#[inline(always)]
unsafe fn tile<S: Simd, const I: usize, const V: usize>(simd: S, sum: &Sum<'_>, out: &mut [f32], lane: usize) {
    let width = S::F32_LANES;
    let (step, grad_step) = (sum.plan.stride, sum.plan.grad.channels);
    // SAFETY: promised by the caller.
    unsafe {
        let place = |i: usize, v: usize| i * TILE + lane + v * width;
        let mut sums = [[simd.splat_f32s(0.0); V]; I];
        if !sum.replace {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, s) in sums.iter_mut().enumerate() {
                    *s = out.as_ptr().add(place(i, v)).cast::<S::f32s>().read_unaligned();
                }
            }
        }
        let whole = sum.lanes - lane >= V * width;
        for row in sum.rows.clone() {
            let (at, grad_at) = sum.row(row);
            let mut x = sum.x.as_ptr().offset(at);
            let mut grad = sum.grad.as_ptr().add(grad_at + lane);
            for _ in 0..sum.pixels(row) {
                let mut g = [simd.splat_f32s(0.0); V];
                for (v, g) in g.iter_mut().enumerate() {
                    let from = grad.add(v * width);
                    *g = match whole {
                        true => from.cast::<S::f32s>().read_unaligned(),
                        false => load(simd, from, sum.lanes - lane - v * width),
                    };
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = simd.splat_f32s(*x.add(i));
                    for v in 0..V {
                        sums[v] = simd.mul_add_e_f32s(x, g[v], sums[v]);
                    }
                }
                x = x.add(step);
                grad = grad.add(grad_step);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, s) in sums.iter().enumerate() {
                out.as_mut_ptr().add(place(i, v)).cast::<S::f32s>().write_unaligned(*s);
            }
        }
    }
}
