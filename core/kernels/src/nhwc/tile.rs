//! The inner loops of convolutions: a tile of pixels times a tile of output channels in registers.

use super::pack::TILE;
use super::pointer::{Interleaved, ReadPointer, WritePointer};
use pulp::Simd;

/// Where a tap of the kernel reads: an offset from the pixel in the image, and an index of its weights.
#[derive(Debug, Clone, Copy)]
pub struct Tap {
    /// Elements from the pixel's position to what the tap reads.
    pub image: isize,
    /// Index of the tap's first weight in the tile.
    pub weight: usize,
    /// The end of the row at which the tap reads only zeros of the border, if there is one.
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

/// Rows of this length leave out the pixel for which a tap reads only zeros of the border: a seventh of the tap's
/// work. Longer rows would gain too little.
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
    /// The bias of each lane of the tile, which sums begin with.
    pub bias: Option<&'a [f32]>,
    /// The images that are written.
    pub out: Interleaved<'a>,
    /// Position of the first pixel's first channel of the tile.
    pub out_at: usize,
    /// Elements between pixels of the row.
    pub out_step: usize,
    /// Output channels of the tile; the other lanes are unused.
    pub lanes: usize,
    /// Pixels.
    pub pixels: usize,
}

/// Pixels of a register tile of two vectors. The largest needs all vector registers, with those of the weights.
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
pub fn row<S: Simd>(simd: S, r: &RowTile<'_>) {
    // Checks once for the row what the register tiles below read and write.
    let last = r.at as isize + ((r.pixels - 1) * r.step + r.inputs - 1) as isize;
    let reach = |tap: &Tap| r.at as isize + tap.image >= 0 && last + tap.image < r.image.len() as isize;
    assert!(r.taps.iter().all(reach), "a tap outside of the image");
    assert!(r.taps.iter().all(|t| t.weight + r.inputs * TILE <= r.weight.len()), "a tap outside of the weights");
    assert!(r.lanes <= TILE);
    let out = r.out.at(r.out_at, (r.pixels - 1) * r.out_step + r.lanes);
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
                    true => dispatch::<S, 2>(simd, r, out, lane, pixel, count),
                    false => dispatch::<S, 1>(simd, r, out, lane, pixel, count),
                }
            }
            pixel += count;
        }
        lane += S::F32_LANES * if two { 2 } else { 1 };
    }
}

/// Calls [`tile`] for so many pixels.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn dispatch<S: Simd, const V: usize>(
    simd: S,
    r: &RowTile<'_>,
    out: WritePointer<'_>,
    lane: usize,
    pixel: usize,
    count: usize,
) {
    macro_rules! tiles {
        ($($n:literal)*) => {
            // SAFETY: as the caller promises.
            match count { $($n => unsafe { tile::<S, $n, V, false>(simd, r, out, lane, pixel) },)* _ => unreachable!() }
        };
    }
    if S::REGISTER_COUNT >= 32 && count == SHORT_ROW && r.pixels == SHORT_ROW {
        // SAFETY: as the caller promises.
        return unsafe { tile::<S, SHORT_ROW, V, true>(simd, r, out, lane, pixel) };
    }
    if S::REGISTER_COUNT >= 32 {
        tiles!(1 2 4 7 10 14)
    } else {
        tiles!(1 2 4 6)
    }
}

/// `P` pixels times `V` vectors of output channels. With `ENDS` these are all pixels of the row, and a tap leaves out
/// the end for which it reads only zeros of the border.
///
/// # Safety
/// The row was checked, and holds these pixels and lanes; `out` is its beginning, and no other task accesses what
/// its pixels and lanes are.
#[inline(always)]
unsafe fn tile<S: Simd, const P: usize, const V: usize, const ENDS: bool>(
    simd: S,
    r: &RowTile<'_>,
    out: WritePointer<'_>,
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
                let b = ReadPointer::new(bias, lane + v * width).vector(simd);
                for p in &mut sums {
                    p[v] = b;
                }
            }
        }
        let at = ReadPointer::new(r.image, r.at + pixel * r.step);
        let out = out.add(pixel * r.out_step + lane);
        for p in 0..P {
            for v in 0..V {
                out.add(p * r.out_step + v * width).prefetch();
            }
        }
        let weight = ReadPointer::new(r.weight, lane);
        for tap in r.taps {
            let (image, weight) = (at.offset(tap.image), weight.add(tap.weight));
            // A copy that no reference points to can stay in registers.
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
                out.add(p * r.out_step + v * width).store_lanes(simd, r.lanes - lane - v * width, *sum);
            }
        }
    }
}

/// Adds the products of one tap; with `NO_FIRST` or `NO_LAST` not those of the first or of the last pixel.
///
/// # Safety
/// `inputs` channels of all pixels and as many lines of weights can be read.
#[inline(always)]
unsafe fn add<S: Simd, const P: usize, const V: usize, const NO_FIRST: bool, const NO_LAST: bool>(
    simd: S,
    sums: &mut [[S::f32s; V]; P],
    mut image: ReadPointer<'_>,
    mut weight: ReadPointer<'_>,
    inputs: usize,
    step: usize,
) {
    let width = S::F32_LANES;
    let mut now = *sums;
    for _ in 0..inputs {
        // SAFETY: promised by the caller.
        unsafe {
            let w: [S::f32s; V] = std::array::from_fn(|v| weight.add(v * width).vector(simd));
            weight = weight.add(TILE);
            let mut pixel = image.add(if NO_FIRST { step } else { 0 });
            for sums in &mut now[usize::from(NO_FIRST)..P - usize::from(NO_LAST)] {
                let x = simd.splat_f32s(pixel.value());
                pixel = pixel.add(step);
                for v in 0..V {
                    sums[v] = simd.mul_add_e_f32s(x, w[v], sums[v]);
                }
            }
            image = image.add(1);
        }
    }
    *sums = now;
}
