//! The maps between images and tiles.

use super::super::tile::{load, store};
use super::super::Layout;
use super::{Tiles, GAP, POSITIONS};
use pulp::{Simd, WithSimd};

/// `B^T` times a column.
#[inline(always)]
fn input<S: Simd>(simd: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
    [simd.sub_f32s(d[0], d[2]), simd.add_f32s(d[1], d[2]), simd.sub_f32s(d[2], d[1]), simd.sub_f32s(d[1], d[3])]
}

/// `A^T` times a column.
#[inline(always)]
fn output<S: Simd>(simd: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
    let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    [simd.add_f32s(m[0], sum), simd.sub_f32s(difference, m[3])]
}

/// `A` times a column: the transposed of [`output`].
#[inline(always)]
fn gradient<S: Simd>(simd: S, g: [S::f32s; 2]) -> [S::f32s; 4] {
    [g[0], simd.add_f32s(g[0], g[1]), simd.sub_f32s(g[0], g[1]), simd.neg_f32s(g[1])]
}

/// Applies a map to rows and columns of a block of `N` x `N`, for one of `M` x `M`.
#[inline(always)]
fn both_ways<S: Simd, const N: usize, const M: usize>(
    simd: S,
    block: [[S::f32s; N]; N],
    map: impl Fn(S, [S::f32s; N]) -> [S::f32s; M],
) -> [[S::f32s; M]; M] {
    let rows: [[S::f32s; M]; N] = std::array::from_fn(
        #[inline(always)]
        |r| map(simd, block[r]),
    );
    let mut out = [[simd.splat_f32s(0.0); M]; M];
    for c in 0..M {
        let column = map(
            simd,
            std::array::from_fn(
                #[inline(always)]
                |r| rows[r][c],
            ),
        );
        for r in 0..M {
            out[r][c] = column[r];
        }
    }
    out
}

/// Reads `N` x `N` pixels of an image with its border; what lies beyond is zero.
struct Block<'a> {
    image: &'a [f32],
    /// Positions of the pixels, or none beyond the border.
    at: [[Option<usize>; 4]; 4],
}

impl<'a> Block<'a> {
    /// The pixels from (`row`, `column`) on, which may lie in the border.
    #[inline(always)]
    fn new(image: &'a [f32], layout: Layout, number: usize, row: isize, column: isize) -> Self {
        let border = layout.border as isize;
        let inside = |i: isize, size: usize| i >= -border && i < size as isize + border;
        let mut at = [[None; 4]; 4];
        for (r, line) in at.iter_mut().enumerate() {
            for (c, place) in line.iter_mut().enumerate() {
                let (y, x) = (row + r as isize, column + c as isize);
                if inside(y, layout.height) && inside(x, layout.width) {
                    let (y, x) = ((y + border) as usize, (x + border) as usize);
                    let first = number * layout.image() + y * layout.row() + x * layout.channels;
                    assert!(first + layout.channels <= image.len(), "a tile outside of the image");
                    *place = Some(first);
                }
            }
        }
        Self { image, at }
    }

    /// `N` x `N` pixels, a vector of channels from `channel` on.
    #[inline(always)]
    fn read<S: Simd, const N: usize>(&self, simd: S, channel: usize, lanes: usize) -> [[S::f32s; N]; N] {
        let mut block = [[simd.splat_f32s(0.0); N]; N];
        for (line, places) in block.iter_mut().zip(&self.at) {
            for (value, place) in line.iter_mut().zip(places) {
                if let Some(first) = place {
                    // SAFETY: the pixel's channels lie inside the image (checked above).
                    *value = unsafe { load(simd, self.image.as_ptr().add(first + channel), lanes) };
                }
            }
        }
        block
    }
}

/// Writes the 16 positions of one vector of channels of a tile.
#[inline(always)]
fn write_positions<S: Simd>(simd: S, tile: &mut [f32], channels: usize, channel: usize, values: [[S::f32s; 4]; 4]) {
    let lanes = channels - channel;
    for (position, value) in values.iter().flatten().enumerate() {
        let from = position * channels + channel;
        let out = &mut tile[from..from + lanes.min(S::F32_LANES)];
        // SAFETY: `out` has these lanes.
        unsafe { store(simd, out.as_mut_ptr(), lanes, *value) };
    }
}

/// What is brought into the form of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inputs of a convolution: `B^T d B`.
    Input,
    /// Gradients of its outputs: `A grad A^T`.
    Gradient,
}

/// Transforms the tiles from number `first` on, as many as `out` has room for.
pub struct ToTiles<'a> {
    pub kind: Kind,
    pub tiles: Tiles,
    pub image: (&'a [f32], Layout),
    pub first: usize,
    pub out: &'a mut [f32],
}

impl WithSimd for ToTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (image, layout) = self.image;
        let channels = layout.channels;
        for (i, out) in self.out.chunks_exact_mut(POSITIONS * channels + GAP).enumerate() {
            if self.first + i >= self.tiles.count() {
                out.fill(0.0);
                continue;
            }
            let (number, row, column) = self.tiles.place(self.first + i);
            // The inputs of the outputs (row, column) begin one pixel before.
            let shift = if self.kind == Kind::Input { 1 } else { 0 };
            let block = Block::new(image, layout, number, row as isize - shift, column as isize - shift);
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                let values = match self.kind {
                    Kind::Input => both_ways(simd, block.read::<S, 4>(simd, channel, lanes), input),
                    Kind::Gradient => both_ways(simd, block.read::<S, 2>(simd, channel, lanes), gradient),
                };
                write_positions(simd, out, channels, channel, values);
            }
        }
    }
}

/// Writes the outputs of the tiles from number `first` on: `A^T m A`, plus the bias.
pub struct FromTiles<'a> {
    pub tiles: Tiles,
    pub first: usize,
    pub values: &'a [f32],
    /// One value for each channel.
    pub bias: Option<&'a [f32]>,
    pub layout: Layout,
    /// The pixels of one output: two rows of two columns.
    pub out: super::super::shared::Shared<'a>,
}

impl WithSimd for FromTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.layout.channels;
        assert!(self.bias.is_none_or(|b| b.len() >= channels));
        let tiles = self.values.chunks_exact(POSITIONS * channels + GAP);
        for (i, tile) in tiles.enumerate().take(self.tiles.count() - self.first) {
            let (number, row, column) = self.tiles.place(self.first + i);
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                let mut block = [[simd.splat_f32s(0.0); 4]; 4];
                for (position, value) in block.iter_mut().flatten().enumerate() {
                    let from = position * channels + channel;
                    let part = &tile[from..from + lanes.min(S::F32_LANES)];
                    // SAFETY: `part` has these lanes.
                    *value = unsafe { load(simd, part.as_ptr(), lanes) };
                }
                let bias = match self.bias {
                    // SAFETY: there is a value for each channel (checked above).
                    Some(bias) => unsafe { load(simd, bias.as_ptr().add(channel), lanes) },
                    None => simd.splat_f32s(0.0),
                };
                let outputs: [[S::f32s; 2]; 2] = both_ways(simd, block, output);
                for (r, line) in outputs.iter().enumerate().take(self.layout.height - row) {
                    for (c, value) in line.iter().enumerate().take(self.layout.width - column) {
                        let at = self.layout.offset(number, row + r) + (column + c) * channels + channel;
                        // SAFETY: tiles have outputs of their own, and one task writes a tile.
                        let out = unsafe { self.out.part(at, lanes.min(S::F32_LANES)) };
                        // SAFETY: `out` has these lanes.
                        unsafe { store(simd, out.as_mut_ptr(), lanes, simd.add_f32s(*value, bias)) };
                    }
                }
            }
        }
    }
}
