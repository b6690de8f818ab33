//! The transforms between images and tiles.

use super::super::layout::Layout;
use super::super::pointer::{Interleaved, ReadPointer};
use super::{Tiles, FAR, GAP, INPUTS, NEAR, OUTPUTS, POSITIONS};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// `a * x + b`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, a: f32, x: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(a), x, b)
}

/// The sum of two values and their difference.
#[inline(always)]
fn both<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> [S::f32s; 2] {
    [simd.add_f32s(a, b), simd.sub_f32s(a, b)]
}

/// `B^T` times a column. Points of opposite sign share the terms of even and of odd power.
#[inline(always)]
fn input<S: Simd>(simd: S, d: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
    let odd = |point: f32, d: S::f32s| simd.mul_f32s(simd.splat_f32s(point), d);
    let near = both(simd, scaled(simd, -2.0, d[2], d[4]), odd(NEAR, scaled(simd, -2.0, d[1], d[3])));
    let far = both(simd, scaled(simd, -0.5, d[2], d[4]), odd(FAR, scaled(simd, -0.5, d[1], d[3])));
    let zero = scaled(simd, -2.5, d[2], simd.add_f32s(d[0], d[4]));
    let infinite = scaled(simd, -2.5, d[3], simd.add_f32s(d[1], d[5]));
    [zero, near[0], near[1], far[0], far[1], infinite]
}

/// `A^T` times a column.
#[inline(always)]
fn output<S: Simd>(simd: S, m: [S::f32s; INPUTS]) -> [S::f32s; OUTPUTS] {
    let ([near, near_odd], [far, far_odd]) = (both(simd, m[1], m[2]), both(simd, m[3], m[4]));
    let (near_odd, far_odd) =
        (simd.mul_f32s(simd.splat_f32s(NEAR), near_odd), simd.mul_f32s(simd.splat_f32s(FAR), far_odd));
    [
        simd.add_f32s(m[0], simd.add_f32s(near, far)),
        simd.add_f32s(near_odd, far_odd),
        scaled(simd, 0.5, near, simd.add_f32s(far, far)),
        scaled(simd, 0.5, near_odd, scaled(simd, 2.0, far_odd, m[5])),
    ]
}

/// `A` times a column: the transposed of [`output`].
#[inline(always)]
fn gradient<S: Simd>(simd: S, g: [S::f32s; OUTPUTS]) -> [S::f32s; INPUTS] {
    let odd = |point: f32, g: S::f32s| simd.mul_f32s(simd.splat_f32s(point), g);
    let near = both(simd, scaled(simd, 0.5, g[2], g[0]), odd(NEAR, scaled(simd, 0.5, g[3], g[1])));
    let far = both(simd, scaled(simd, 2.0, g[2], g[0]), odd(FAR, scaled(simd, 2.0, g[3], g[1])));
    [g[0], near[0], near[1], far[0], far[1], g[3]]
}

/// Rows of `B^T`, by position: what [`input`] computes.
const INPUT_ROWS: [[f32; INPUTS]; INPUTS] = [
    [1.0, 0.0, -2.5, 0.0, 1.0, 0.0],
    [0.0, -2.0 * NEAR, -2.0, NEAR, 1.0, 0.0],
    [0.0, 2.0 * NEAR, -2.0, -NEAR, 1.0, 0.0],
    [0.0, -0.5 * FAR, -0.5, FAR, 1.0, 0.0],
    [0.0, 0.5 * FAR, -0.5, -FAR, 1.0, 0.0],
    [0.0, 1.0, 0.0, -2.5, 0.0, 1.0],
];

/// Rows of `A`, by position: what [`gradient`] computes.
const GRADIENT_ROWS: [[f32; OUTPUTS]; INPUTS] = [
    [1.0, 0.0, 0.0, 0.0],
    [1.0, NEAR, 0.5, 0.5 * NEAR],
    [1.0, -NEAR, 0.5, -0.5 * NEAR],
    [1.0, FAR, 2.0, 2.0 * FAR],
    [1.0, -FAR, 2.0, -2.0 * FAR],
    [0.0, 0.0, 0.0, 1.0],
];

/// Applies a map to the six rows of a block, which are read one by one, and then to the columns of the result, which
/// are handed on one by one. A macro writes this out: the compiler would keep arrays in memory, and would not inline
/// functions that are passed as arguments, which then could not use wide vectors.
macro_rules! both_ways {
    ($simd:ident, $map:ident, |$r:ident| $row:expr, |$c:ident, $column:ident| $body:expr) => {{
        macro_rules! row {
            ($number:literal) => {{
                let $r = $number;
                $map($simd, $row)
            }};
        }
        let rows = [row!(0), row!(1), row!(2), row!(3), row!(4), row!(5)];
        for $c in 0..rows[0].len() {
            let column = [rows[0][$c], rows[1][$c], rows[2][$c], rows[3][$c], rows[4][$c], rows[5][$c]];
            let $column = $map($simd, column);
            $body
        }
    }};
}

/// Pixels of an image with its border. The last row and the last column, which are zero, take the place of all that
/// lies beyond them.
struct Block<'a> {
    image: &'a [f32],
    /// Position of the first pixel, and elements from it to the others of its column and row.
    at: usize,
    rows: [usize; INPUTS],
    columns: [usize; INPUTS],
}

impl<'a> Block<'a> {
    /// The pixels from (`row`, `column`) on, which may lie in the border.
    #[inline(always)]
    fn new(image: &'a [f32], layout: Layout, number: usize, [row, column]: [isize; 2]) -> Self {
        let [y, x] = [row, column].map(|i| (i + layout.border as isize) as usize);
        let [bottom, right] = [layout.height + 2 * layout.border - 1 - y, layout.width + 2 * layout.border - 1 - x];
        let at = number * layout.image() + y * layout.row() + x * layout.channels;
        let last = at + bottom.min(INPUTS - 1) * layout.row() + (right.min(INPUTS - 1) + 1) * layout.channels;
        assert!(layout.border >= 1 && last <= image.len(), "a tile outside of the image");
        let (mut rows, mut columns) = ([0; INPUTS], [0; INPUTS]);
        for i in 0..INPUTS {
            rows[i] = i.min(bottom) * layout.row();
            columns[i] = i.min(right) * layout.channels;
        }
        Self { image, at, rows, columns }
    }

    /// `N` pixels of row `row`, a vector of channels from `channel` on.
    #[inline(always)]
    fn row<S: Simd, const N: usize>(&self, simd: S, row: usize, channel: usize, lanes: usize) -> [S::f32s; N] {
        let mut line = [simd.splat_f32s(0.0); N];
        let at = self.at + self.rows[row] + channel;
        for (value, column) in line.iter_mut().zip(self.columns) {
            // SAFETY: the pixel's channels lie inside the image (checked by `new`).
            *value = unsafe { ReadPointer::new(self.image, at + column).lanes(simd, lanes) };
        }
        line
    }
}

/// A row of positions before the map across: the sum of the block's rows with these factors.
#[inline(always)]
fn line<S: Simd, const N: usize>(
    simd: S,
    factors: &[f32; N],
    block: &Block<'_>,
    channel: usize,
    lanes: usize,
) -> [S::f32s; N] {
    let mut line = [simd.splat_f32s(0.0); N];
    for (r, factor) in factors.iter().enumerate() {
        if *factor != 0.0 {
            let row = block.row::<S, N>(simd, r, channel, lanes);
            for (sum, value) in line.iter_mut().zip(row) {
                *sum = scaled(simd, *factor, value, *sum);
            }
        }
    }
    line
}

/// One row of positions of [`Transform`].
#[inline(always)]
fn one_row<S: Simd>(
    simd: S,
    transform: Transform,
    block: &Block<'_>,
    row: usize,
    channel: usize,
    lanes: usize,
) -> [S::f32s; INPUTS] {
    match transform {
        Transform::Input => input(simd, line(simd, &INPUT_ROWS[row], block, channel, lanes)),
        Transform::Gradient => gradient(simd, line(simd, &GRADIENT_ROWS[row], block, channel, lanes)),
    }
}

/// Writes positions of one vector of channels of a tile.
#[inline(always)]
fn write<S: Simd>(simd: S, tile: &mut [f32], channels: usize, channel: usize, values: &[S::f32s]) {
    let lanes = channels - channel;
    let tile = Interleaved::new(tile).at(0, values.len() * channels);
    for (position, value) in values.iter().enumerate() {
        // SAFETY: the tile has as many positions, each with `lanes` channels from this one on.
        unsafe { tile.add(position * channels + channel).store_lanes(simd, lanes, *value) };
    }
}

/// What is transformed into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Inputs of a convolution: `B^T d B`.
    Input,
    /// Gradients of its outputs: `A grad A^T`.
    Gradient,
}

/// Transforms the tiles from number `first` on.
pub struct ToTiles<'a> {
    pub transform: Transform,
    /// The row of positions that is computed; None for all rows.
    pub row: Option<usize>,
    pub tiles: Tiles,
    pub image: (&'a [f32], Layout),
    /// The image's channels that are read.
    pub channels: Range<usize>,
    pub first: usize,
    pub count: usize,
    /// Tile by tile: the positions that are computed, each with its channels, then a gap.
    pub out: &'a mut [f32],
}

impl WithSimd for ToTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (image, layout) = self.image;
        let channels = self.channels.len();
        assert!(self.channels.end <= layout.channels, "channels of the image");
        let each = if self.row.is_some() { INPUTS } else { POSITIONS } * channels + GAP;
        // The inputs of an output begin one pixel before it.
        let shift = if self.transform == Transform::Input { 1 } else { 0 };
        for (i, out) in self.out.chunks_exact_mut(each).enumerate().take(self.count) {
            let (number, row, column) = self.tiles.place(self.first + i);
            let block = Block::new(image, layout, number, [row, column].map(|i| i as isize - shift));
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                match self.row {
                    Some(row) => {
                        let values = one_row(simd, self.transform, &block, row, self.channels.start + channel, lanes);
                        write(simd, out, channels, channel, &values);
                    }
                    None => {
                        let out = Interleaved::new(out).at(0, POSITIONS * channels);
                        both_ways!(
                            simd,
                            input,
                            |r| block.row::<S, INPUTS>(simd, r, self.channels.start + channel, lanes),
                            |c, column| {
                                for (r, value) in column.iter().enumerate() {
                                    let place = (r * INPUTS + c) * channels + channel;
                                    // SAFETY: `out` has all positions, each with `lanes` channels from this one on.
                                    unsafe { out.add(place).store_lanes(simd, lanes, *value) };
                                }
                            }
                        );
                    }
                }
            }
        }
    }
}

/// Writes the outputs of the tiles from number `first` on: `A^T m A`, plus the bias.
pub struct FromTiles<'a> {
    pub tiles: Tiles,
    pub first: usize,
    pub count: usize,
    pub values: &'a [f32],
    /// One value for each channel that is written.
    pub bias: Option<&'a [f32]>,
    pub layout: Layout,
    /// The channels that are written.
    pub channels: Range<usize>,
    pub out: Interleaved<'a>,
}

impl WithSimd for FromTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.channels.len();
        assert!(self.channels.end <= self.layout.channels, "channels of the image");
        assert!(self.bias.is_none_or(|b| b.len() >= channels), "a bias for each channel");
        let tiles = self.values.chunks_exact(POSITIONS * channels + GAP);
        for (i, tile) in tiles.enumerate().take(self.count) {
            let (number, row, column) = self.tiles.place(self.first + i);
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                let bias = match self.bias {
                    // SAFETY: there is a value for each channel (checked above).
                    Some(bias) => unsafe { ReadPointer::new(bias, channel).lanes(simd, lanes) },
                    None => simd.splat_f32s(0.0),
                };
                let inside = [self.layout.height - row, self.layout.width - column];
                let pixel = self.layout.channels;
                let at = self.layout.offset(number, row) + column * pixel + self.channels.start + channel;
                both_ways!(
                    simd,
                    output,
                    |r| {
                        let mut row = [simd.splat_f32s(0.0); INPUTS];
                        for (c, value) in row.iter_mut().enumerate() {
                            let place = (r * INPUTS + c) * channels + channel;
                            // SAFETY: a tile has these positions, each with `lanes` channels from this one on.
                            *value = unsafe { ReadPointer::new(tile, place).lanes(simd, lanes) };
                        }
                        row
                    },
                    |c, column| {
                        for (r, value) in column.iter().enumerate() {
                            if r < inside[0] && c < inside[1] {
                                let at = at + r * self.layout.row() + c * pixel;
                                let out = self.out.at(at, lanes.min(S::F32_LANES));
                                // SAFETY: tiles have outputs of their own, and one task writes a tile.
                                unsafe { out.store_lanes(simd, lanes, simd.add_f32s(*value, bias)) };
                            }
                        }
                    }
                );
            }
        }
    }
}
