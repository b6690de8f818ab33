//! The inner loops of convolutions: a tile of pixels times a tile of output channels in registers.

use super::TILE;
use crate::simd::prefetch_to_write;
use pulp::Simd;

/// Where a kernel tap reads: distance from the pixel in the image, and place of its weights.
#[derive(Debug, Clone, Copy)]
pub struct Tap {
    /// Elements from the pixel's position.
    pub image: isize,
    /// Elements from the tile's weights.
    pub weight: usize,
    /// A pixel of the row for which the tap reads nothing but zeros of the border.
    pub edge: Edge,
}

/// One end of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// No pixel.
    None,
    /// The first pixel.
    First,
    /// The last pixel.
    Last,
}

/// Length of the rows whose ends count: one of seven pixels is a seventh of the work of a tap.
pub const SHORT_ROW: usize = 7;

/// A row of output pixels for one tile of output channels.
pub struct RowTile<'a> {
    /// The image that is read.
    pub image: &'a [f32],
    /// Position of the first pixel's first channel of the group.
    pub at: usize,
    /// Elements between pixels of the image.
    pub step: usize,
    /// Taps; each reads `inputs` channels.
    pub taps: &'a [Tap],
    /// Channels of a tap.
    pub inputs: usize,
    /// Weights of the tile.
    pub weight: &'a [f32],
    /// What sums begin with, for each lane of the tile.
    pub bias: Option<&'a [f32]>,
    /// The row that is written, from the first pixel's first channel of the tile.
    pub out: &'a mut [f32],
    /// Elements between pixels of the row.
    pub out_step: usize,
    /// Channels of the tile that exist.
    pub lanes: usize,
    /// Pixels.
    pub pixels: usize,
}

/// Pixels of a register tile of two vectors: the largest fills the registers beside the weights.
fn tile_sizes<S: Simd>() -> &'static [usize] {
    if S::REGISTER_COUNT >= 32 {
        &[14, 10, 7, 4, 2, 1]
    } else {
        &[6, 4, 2, 1]
    }
}

/// The first of `sizes`, which ends with 1, that is not larger than `left`.
#[inline(always)]
pub fn fitting(sizes: &[usize], left: usize) -> usize {
    sizes.iter().copied().find(|s| *s <= left).unwrap_or(1)
}

/// Computes the row.
#[inline(always)]
pub fn row<S: Simd>(simd: S, r: &mut RowTile<'_>) {
    // What the register tiles below read and write, checked once for the row.
    let last = r.at as isize + ((r.pixels - 1) * r.step + r.inputs - 1) as isize;
    let reach = |tap: &Tap| r.at as isize + tap.image >= 0 && last + tap.image < r.image.len() as isize;
    assert!(r.taps.iter().all(reach), "a tap outside of the image");
    assert!(r.taps.iter().all(|t| t.weight + r.inputs * TILE <= r.weight.len()), "a tap outside of the weights");
    assert!((r.pixels - 1) * r.out_step + r.lanes <= r.out.len() && r.lanes <= TILE, "a pixel outside of the row");
    assert!(r.bias.is_none_or(|b| b.len() >= TILE));
    let mut lane = 0;
    while lane < r.lanes {
        let two = r.lanes - lane > S::F32_LANES;
        let mut pixel = 0;
        while pixel < r.pixels {
            let count = fitting(tile_sizes::<S>(), r.pixels - pixel);
            // SAFETY: all that is read and written was checked above.
            unsafe {
                match two {
                    true => dispatch::<S, 2>(simd, r, lane, pixel, count),
                    false => dispatch::<S, 1>(simd, r, lane, pixel, count),
                }
            }
            pixel += count;
        }
        lane += S::F32_LANES * if two { 2 } else { 1 };
    }
}

#[inline(always)]
unsafe fn dispatch<S: Simd, const V: usize>(simd: S, r: &mut RowTile<'_>, lane: usize, pixel: usize, count: usize) {
    macro_rules! tiles {
        ($($n:literal)*) => {
            // SAFETY: as the caller promises.
            match count { $($n => unsafe { tile::<S, $n, V, false>(simd, r, lane, pixel) },)* _ => unreachable!() }
        };
    }
    if S::REGISTER_COUNT >= 32 && count == SHORT_ROW && r.pixels == SHORT_ROW {
        // SAFETY: as the caller promises.
        return unsafe { tile::<S, SHORT_ROW, V, true>(simd, r, lane, pixel) };
    }
    if S::REGISTER_COUNT >= 32 {
        tiles!(1 2 4 7 10 14)
    } else {
        tiles!(1 2 4 6)
    }
}

/// `P` pixels times `V` vectors of output channels. With `ENDS` these are all pixels of the row, and its ends
/// are left out where a tap reads nothing for them.
///
/// # Safety
/// The row was checked, and holds these pixels and lanes.
#[inline(always)]
unsafe fn tile<S: Simd, const P: usize, const V: usize, const ENDS: bool>(
    simd: S,
    r: &mut RowTile<'_>,
    lane: usize,
    pixel: usize,
) {
    let width = S::F32_LANES;
    let (step, inputs) = (r.step, r.inputs);
    // SAFETY: promised by the caller.
    unsafe {
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        if let Some(bias) = r.bias {
            for v in 0..V {
                let b = bias.as_ptr().add(lane + v * width).cast::<S::f32s>().read_unaligned();
                for p in &mut sums {
                    p[v] = b;
                }
            }
        }
        let at = r.image.as_ptr().add(r.at + pixel * r.step);
        let out = r.out.as_mut_ptr().add(pixel * r.out_step + lane);
        for p in 0..P {
            for v in 0..V {
                prefetch_to_write(out.wrapping_add(p * r.out_step + v * width));
            }
        }
        let weight = r.weight.as_ptr().add(lane);
        for tap in r.taps {
            let (image, weight) = (at.offset(tap.image), weight.add(tap.weight));
            // A copy that no other reference points to stays in registers.
            let mut now = sums;
            match tap.edge {
                Edge::First if ENDS => add::<S, P, V, true, false>(simd, &mut now, image, weight, inputs, step),
                Edge::Last if ENDS => add::<S, P, V, false, true>(simd, &mut now, image, weight, inputs, step),
                _ => add::<S, P, V, false, false>(simd, &mut now, image, weight, inputs, step),
            }
            sums = now;
        }
        for (p, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                store(simd, out.add(p * r.out_step + v * width), r.lanes - lane - v * width, *sum);
            }
        }
    }
}

/// Adds the products of one tap, without the first or the last pixel if so wanted.
///
/// # Safety
/// `inputs` channels of all pixels and as many lines of weights can be read.
#[inline(always)]
unsafe fn add<S: Simd, const P: usize, const V: usize, const NO_FIRST: bool, const NO_LAST: bool>(
    simd: S,
    sums: &mut [[S::f32s; V]; P],
    mut image: *const f32,
    mut weight: *const f32,
    inputs: usize,
    step: usize,
) {
    let width = S::F32_LANES;
    let mut now = *sums;
    for _ in 0..inputs {
        // SAFETY: promised by the caller.
        unsafe {
            let w: [S::f32s; V] = std::array::from_fn(|v| weight.add(v * width).cast::<S::f32s>().read_unaligned());
            weight = weight.add(TILE);
            let mut pixel = image.wrapping_add(if NO_FIRST { step } else { 0 });
            for sums in &mut now[usize::from(NO_FIRST)..P - usize::from(NO_LAST)] {
                let x = simd.splat_f32s(*pixel);
                pixel = pixel.wrapping_add(step);
                for v in 0..V {
                    sums[v] = simd.mul_add_e_f32s(x, w[v], sums[v]);
                }
            }
            image = image.add(1);
        }
    }
    *sums = now;
}

/// Writes the lanes of a vector that exist.
///
/// # Safety
/// `out` has `lanes` elements, or a whole vector.
#[inline(always)]
pub unsafe fn store<S: Simd>(simd: S, out: *mut f32, lanes: usize, value: S::f32s) {
    // SAFETY: promised by the caller.
    unsafe {
        if lanes >= S::F32_LANES {
            out.cast::<S::f32s>().write_unaligned(value);
        } else {
            simd.partial_store_f32s(std::slice::from_raw_parts_mut(out, lanes), value);
        }
    }
}

/// Reads the lanes of a vector that exist; the others are zero.
///
/// # Safety
/// `from` has `lanes` elements, or a whole vector.
#[inline(always)]
pub unsafe fn load<S: Simd>(simd: S, from: *const f32, lanes: usize) -> S::f32s {
    // SAFETY: promised by the caller.
    unsafe {
        if lanes >= S::F32_LANES {
            from.cast::<S::f32s>().read_unaligned()
        } else {
            simd.partial_load_f32s(std::slice::from_raw_parts(from, lanes))
        }
    }
}
