//! The maps between images and tiles.

use super::super::shared::Shared;
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

/// Pixels of an image with its border; what lies beyond is zero.
struct Block<'a> {
    image: &'a [f32],
    /// Position of the first pixel, and elements from one row and column to the next.
    at: usize,
    steps: [usize; 2],
    /// Rows and columns before the end of the border.
    inside: [usize; 2],
}

impl<'a> Block<'a> {
    /// The pixels from (`row`, `column`) on, which may lie in the border; at most `size` rows and columns
    /// are read.
    #[inline(always)]
    fn new(image: &'a [f32], layout: Layout, number: usize, [row, column]: [isize; 2], size: usize) -> Self {
        let [y, x] = [row, column].map(|i| (i + layout.border as isize) as usize);
        let inside =
            [layout.height + 2 * layout.border - y, layout.width + 2 * layout.border - x].map(|left| left.min(size));
        let steps = [layout.row(), layout.channels];
        let at = number * layout.image() + y * steps[0] + x * steps[1];
        let last = at + (inside[0] - 1) * steps[0] + inside[1] * steps[1];
        assert!(last <= image.len(), "a tile outside of the image");
        Self { image, at, steps, inside }
    }

    /// `N` pixels of row `row`, a vector of channels from `channel` on.
    #[inline(always)]
    fn row<S: Simd, const N: usize>(&self, simd: S, row: usize, channel: usize, lanes: usize) -> [S::f32s; N] {
        let mut line = [simd.splat_f32s(0.0); N];
        if row < self.inside[0] {
            let at = self.at + row * self.steps[0] + channel;
            // SAFETY: the pixel's channels lie inside the image (checked by `new`).
            let read = |c: usize| unsafe { load(simd, self.image.as_ptr().add(at + c * self.steps[1]), lanes) };
            // Most rows have all pixels: without a question for each of them.
            if self.inside[1] >= N {
                return std::array::from_fn(read);
            }
            for (c, value) in line.iter_mut().enumerate().take(self.inside[1]) {
                *value = read(c);
            }
        }
        line
    }
}

/// A vector by vector operation on rows of pixels.
#[inline(always)]
fn each<S: Simd, const N: usize>(
    a: [S::f32s; N],
    b: [S::f32s; N],
    operation: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> [S::f32s; N] {
    std::array::from_fn(
        #[inline(always)]
        |i| operation(a[i], b[i]),
    )
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
) -> [S::f32s; 4] {
    let add = |a, b| simd.add_f32s(a, b);
    let subtract = |a, b| simd.sub_f32s(a, b);
    match transform {
        Transform::Input => {
            let read = |r| block.row::<S, 4>(simd, r, channel, lanes);
            let line = match row {
                0 => each::<S, 4>(read(0), read(2), subtract),
                1 => each::<S, 4>(read(1), read(2), add),
                2 => each::<S, 4>(read(2), read(1), subtract),
                _ => each::<S, 4>(read(1), read(3), subtract),
            };
            input(simd, line)
        }
        Transform::Gradient => {
            let read = |r| block.row::<S, 2>(simd, r, channel, lanes);
            let line = match row {
                0 => read(0),
                1 => each::<S, 2>(read(0), read(1), add),
                2 => each::<S, 2>(read(0), read(1), subtract),
                _ => each::<S, 2>([simd.splat_f32s(0.0); 2], read(1), subtract),
            };
            gradient(simd, line)
        }
    }
}

/// Writes positions of one vector of channels of a tile.
#[inline(always)]
fn write<S: Simd>(simd: S, tile: &mut [f32], channels: usize, channel: usize, values: &[S::f32s]) {
    let lanes = channels - channel;
    assert!(values.len() * channels <= tile.len());
    for (position, value) in values.iter().enumerate() {
        // SAFETY: the tile has as many positions, each with `lanes` channels from this one on.
        unsafe { store(simd, tile.as_mut_ptr().add(position * channels + channel), lanes, *value) };
    }
}

/// What is brought into the form of tiles.
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
    /// The row of positions that is wanted; all four without.
    pub row: Option<usize>,
    pub tiles: Tiles,
    pub image: (&'a [f32], Layout),
    pub first: usize,
    pub count: usize,
    /// Tile by tile: the positions that are wanted, with their channels, and a gap.
    pub out: &'a mut [f32],
}

impl WithSimd for ToTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (image, layout) = self.image;
        let channels = layout.channels;
        let each = if self.row.is_some() { 4 } else { POSITIONS } * channels + GAP;
        // The inputs of an output begin one pixel before it.
        let (shift, size) = if self.transform == Transform::Input { (1, 4) } else { (0, 2) };
        for (i, out) in self.out.chunks_exact_mut(each).enumerate().take(self.count) {
            let (number, row, column) = self.tiles.place(self.first + i);
            let block = Block::new(image, layout, number, [row, column].map(|i| i as isize - shift), size);
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                match self.row {
                    Some(row) => {
                        let values = one_row(simd, self.transform, &block, row, channel, lanes);
                        write(simd, out, channels, channel, &values);
                    }
                    None => {
                        let rows = std::array::from_fn(
                            #[inline(always)]
                            |r| block.row::<S, 4>(simd, r, channel, lanes),
                        );
                        let values = both_ways(simd, rows, input);
                        write(simd, out, channels, channel, values.as_flattened());
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
    /// One value for each channel.
    pub bias: Option<&'a [f32]>,
    pub layout: Layout,
    pub out: Shared<'a>,
}

impl WithSimd for FromTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.layout.channels;
        assert!(self.bias.is_none_or(|b| b.len() >= channels));
        let tiles = self.values.chunks_exact(POSITIONS * channels + GAP);
        for (i, tile) in tiles.enumerate().take(self.count) {
            let (number, row, column) = self.tiles.place(self.first + i);
            for channel in (0..channels).step_by(S::F32_LANES) {
                let lanes = channels - channel;
                let mut block = [[simd.splat_f32s(0.0); 4]; 4];
                for (position, value) in block.iter_mut().flatten().enumerate() {
                    // SAFETY: a tile has 16 positions, each with `lanes` channels from this one on.
                    *value = unsafe { load(simd, tile.as_ptr().add(position * channels + channel), lanes) };
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
