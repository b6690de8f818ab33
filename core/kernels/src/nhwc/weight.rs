//! The gradient of a direct convolution with respect to its weight.

use super::layout::Layout;
use super::pack::{PackedShape, TILE};
use super::pointer::{Interleaved, ReadPointer, WritePointer};
use super::tile::fitting;
use crate::conv::Conv2dShape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Least and greatest number of pixels whose products are summed in registers before the sums are stored.
const PIXELS: [usize; 2] = [168, 336];
/// Bytes of images that stay in the cache while the gradients of all tiles of weights are summed from them.
const RESIDENT: usize = 900_000;
/// Pixels of a row where the rows of images do not matter.
const FLAT_ROW: usize = 56;
/// Input channels of the largest register tile.
const MOST: usize = 12;
/// Least number of tasks.
const TASKS: usize = 16;

/// The gradient of a convolution's weight, planned for given layouts.
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
    /// Images and rows that are summed together.
    pass: [usize; 2],
    /// Input channels of a task.
    slice: usize,
    /// Pixels of an image; of all images where they are one long row.
    pixels: usize,
}

impl WeightPlan {
    /// For a convolution that reads `x`, whose border is at least the padding, with the gradient `grad`
    /// of its output.
    pub fn new(shape: &Conv2dShape, x: Layout, grad: Layout) -> Self {
        let packed = PackedShape::of(shape);
        let whole = shape.is_pointwise() && x.border == 0 && grad.border == 0;
        let pixels = grad.batch * grad.height * grad.width;
        let one_row = |l: Layout| Layout { batch: 1, height: pixels.div_ceil(FLAT_ROW), width: FLAT_ROW, ..l };
        let (x, grad, all) =
            if whole { (one_row(x), one_row(grad), pixels) } else { (x, grad, grad.height * grad.width) };
        let [sy, sx] = shape.stride;
        // For each place along an axis of the kernel: the outputs whose tap lies in the image.
        let reached = |axis: usize, before: usize, outputs: usize, inputs: usize| -> Vec<[usize; 2]> {
            let reach = |k: usize| {
                let offset = (k * shape.dilation[axis]) as isize - before as isize;
                let inside = |i: &usize| (0..inputs as isize).contains(&((i * shape.stride[axis]) as isize + offset));
                let first = (0..outputs).find(inside).unwrap_or(0);
                [first, (0..outputs).rfind(inside).map_or(first, |last| last + 1)]
            };
            (0..shape.kernel[axis]).map(reach).collect()
        };
        let position = |ky: usize, kx: usize| {
            let y = (ky * shape.dilation[0] + x.border) as isize - shape.padding.top as isize;
            let column = (kx * shape.dilation[1] + x.border) as isize - shape.padding.left as isize;
            y * x.row() as isize + column * x.channels as isize
        };
        let kernel = (0..shape.kernel[0]).flat_map(|ky| (0..shape.kernel[1]).map(move |kx| (ky, kx)));
        let taps = kernel.map(|(ky, kx)| position(ky, kx)).collect();
        let bytes = sy * x.row() * size_of::<f32>() / grad.width;
        let pixels = (RESIDENT / bytes).clamp(PIXELS[0], PIXELS[1]);
        let pass =
            [(pixels / (grad.height * grad.width)).clamp(1, grad.batch), pixels.div_ceil(grad.width).min(grad.height)];
        let channel = pass[0] * pass[1] * sy * x.row() / x.channels * size_of::<f32>();
        let tasks = packed.groups * packed.tiles() * packed.kernel[0];
        let slices = packed.inputs.div_ceil((RESIDENT / channel).max(MOST)).max(TASKS.div_ceil(tasks));
        // Slices of almost the same size, so that tasks take the same time.
        let slice = packed.inputs.div_ceil(slices).next_multiple_of(if packed.inputs > 2 * MOST { MOST } else { 8 });
        Self {
            shape: packed,
            stride: sx * x.channels,
            row_step: sy * x.row(),
            rows: reached(0, shape.padding.top, grad.height, x.height),
            columns: reached(1, shape.padding.left, grad.width, x.width),
            taps,
            pass,
            slice,
            pixels: all,
            x,
            grad,
        }
    }

    /// Adds the gradient to `out`, packed, or replaces it where `replace` is set.
    pub fn run(&self, x: &[f32], grad: &[f32], out: &mut [f32], replace: bool) {
        assert_eq!(out.len(), self.shape.len(), "weights");
        let all = self.slices() * self.shape.groups * self.shape.tiles() * self.shape.kernel[0];
        // Each weight is summed by one task in one order, however tasks are grouped.
        let groups = all.min(4 * rayon::current_num_threads());
        let out = Interleaved::new(out);
        (0..groups).into_par_iter().for_each(|i| {
            let tasks = i * all / groups..(i + 1) * all / groups;
            Arch::new().dispatch(Tasks { plan: self, x, grad, out, tasks, replace });
        });
    }

    /// As [`run`](Self::run), on the calling thread, for the tiles `tiles` of every group.
    pub(super) fn run_alone(&self, x: &[f32], grad: &[f32], out: Interleaved<'_>, tiles: Range<usize>, replace: bool) {
        let each = self.shape.kernel[0];
        for group in 0..self.slices() * self.shape.groups {
            let first = group * self.shape.tiles();
            let tasks = (first + tiles.start) * each..(first + tiles.end) * each;
            Arch::new().dispatch(Tasks { plan: self, x, grad, out, tasks, replace });
        }
    }

    /// Parts of the input channels.
    fn slices(&self) -> usize {
        self.shape.inputs.div_ceil(self.slice)
    }

    /// Pixels of a row of the gradient.
    fn pixels(&self, row: usize) -> usize {
        self.grad.width.min(self.pixels - row * self.grad.width)
    }
}

struct Tasks<'a> {
    plan: &'a WeightPlan,
    x: &'a [f32],
    grad: &'a [f32],
    out: Interleaved<'a>,
    tasks: Range<usize>,
    replace: bool,
}

impl WithSimd for Tasks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let p = self.plan;
        let mut first = self.replace;
        for image in (0..p.grad.batch).step_by(p.pass[0]) {
            for row in (0..p.grad.height).step_by(p.pass[1]) {
                let images = image..p.grad.batch.min(image + p.pass[0]);
                let rows = row..p.grad.height.min(row + p.pass[1]);
                for task in self.tasks.clone() {
                    self.task(simd, task, images.clone(), rows.clone(), first);
                }
                first = false;
            }
        }
    }
}

impl Tasks<'_> {
    /// What some rows add to one row of the kernel of one tile.
    #[inline(always)]
    fn task<S: Simd>(&self, simd: S, task: usize, images: Range<usize>, rows: Range<usize>, replace: bool) {
        let (p, s) = (self.plan, &self.plan.shape);
        let (part, ky) = (task / s.kernel[0], task % s.kernel[0]);
        let (slice, tile) = (part / (s.groups * s.tiles()), part % (s.groups * s.tiles()));
        let (group, first) = (tile / s.tiles(), tile % s.tiles() * TILE);
        let lanes = TILE.min(s.outputs - first);
        let [from, to] = p.rows[ky];
        let rows = from.max(rows.start)..to.min(rows.end).max(from.max(rows.start));
        let inputs = slice * p.slice..s.inputs.min((slice + 1) * p.slice);
        for kx in 0..s.kernel[1] {
            let tap = ky * s.kernel[1] + kx;
            let mut input = inputs.start;
            while input < inputs.end {
                let count = even(sizes::<S>(), inputs.end - input);
                let place = tile * s.tile() + (tap * s.inputs + input) * TILE;
                // Tasks differ in tile, kernel row or input channels.
                let out = self.out.at(place, count * TILE);
                let at = (group * s.inputs + input) as isize + p.taps[tap];
                let grad = group * s.outputs + first;
                let sum = Sum {
                    plan: p,
                    x: self.x,
                    at,
                    grad: self.grad,
                    grad_at: grad,
                    images: images.clone(),
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

/// Input channels of a register tile of two vectors, the largest first.
fn sizes<S: Simd>() -> &'static [usize] {
    if S::REGISTER_COUNT >= 32 {
        &[MOST, 10, 8, 6, 4, 2, 1]
    } else {
        &[6, 4, 2, 1]
    }
}

/// The size of the next tile: few tiles follow, and they have almost the same size.
fn even(sizes: &[usize], left: usize) -> usize {
    let each = left.div_ceil(left.div_ceil(sizes[0]));
    let enough = sizes.iter().rfind(|s| **s >= each && **s <= left);
    enough.copied().unwrap_or_else(|| fitting(sizes, left))
}

/// The products of one tap over some rows of some images.
struct Sum<'a> {
    plan: &'a WeightPlan,
    x: &'a [f32],
    /// Position for row 0, pixel 0; may lie before the image for rows that are not summed.
    at: isize,
    grad: &'a [f32],
    /// Channel of the gradient.
    grad_at: usize,
    images: Range<usize>,
    rows: Range<usize>,
    columns: [usize; 2],
    lanes: usize,
    replace: bool,
}

impl Sum<'_> {
    /// Positions of the first pixel of a row that counts, in image and gradient.
    #[inline(always)]
    fn row(&self, image: usize, row: usize) -> (isize, usize) {
        let (plan, first) = (self.plan, self.columns[0]);
        let at = self.at + (image * plan.x.image() + row * plan.row_step + first * plan.stride) as isize;
        (at, plan.grad.offset(image, row) + self.grad_at + first * plan.grad.channels)
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
        let ((low, _), (high, grad)) = (self.row(self.images.start, first), self.row(self.images.end - 1, last));
        assert!(low >= 0, "before the image");
        assert!(high as usize + pixels * self.plan.stride + inputs <= self.x.len(), "beyond the image");
        assert!(grad + pixels * self.plan.grad.channels + self.lanes <= self.grad.len(), "beyond the gradient");
    }
}

/// Calls [`tile`] for so many input channels.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn dispatch<S: Simd, const V: usize>(simd: S, sum: &Sum<'_>, out: WritePointer<'_>, lane: usize, count: usize) {
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
/// The sum was checked for `I` input channels; as many lines may be accessed from `out` on, by this task alone.
#[inline(always)]
unsafe fn tile<S: Simd, const I: usize, const V: usize>(simd: S, sum: &Sum<'_>, out: WritePointer<'_>, lane: usize) {
    let width = S::F32_LANES;
    let (step, grad_step) = (sum.plan.stride, sum.plan.grad.channels);
    let (row_step, grad_row_step) = (sum.plan.row_step, sum.plan.grad.row());
    // SAFETY: promised by the caller.
    unsafe {
        let place = |i: usize, v: usize| i * TILE + lane + v * width;
        let mut sums = [[simd.splat_f32s(0.0); V]; I];
        if !sum.replace {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, s) in sums.iter_mut().enumerate() {
                    *s = out.add(place(i, v)).vector(simd);
                }
            }
        }
        // The place of the sums of the next tile.
        for i in I..2 * I {
            for v in 0..V {
                out.add(place(i, v)).prefetch();
            }
        }
        let whole = sum.lanes - lane >= V * width;
        for image in sum.images.clone() {
            // Neighbouring rows have the same distance everywhere.
            let (at, grad_at) = sum.row(image, sum.rows.start);
            let mut x_row = ReadPointer::new(sum.x, 0).offset(at);
            let mut grad_row = ReadPointer::new(sum.grad, grad_at + lane);
            for row in sum.rows.clone() {
                let (mut x, mut grad) = (x_row, grad_row);
                for _ in 0..sum.pixels(row) {
                    let mut g = [simd.splat_f32s(0.0); V];
                    for (v, g) in g.iter_mut().enumerate() {
                        let from = grad.add(v * width);
                        *g = match whole {
                            true => from.vector(simd),
                            false => from.lanes(simd, sum.lanes - lane - v * width),
                        };
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = simd.splat_f32s(x.add(i).value());
                        for v in 0..V {
                            sums[v] = simd.mul_add_e_f32s(x, g[v], sums[v]);
                        }
                    }
                    x = x.add(step);
                    grad = grad.add(grad_step);
                }
                x_row = x_row.add(row_step);
                grad_row = grad_row.add(grad_row_step);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, s) in sums.iter().enumerate() {
                out.add(place(i, v)).store(simd, *s);
            }
        }
    }
}
