//! Second moments of a layer's inputs.

use qdrop_core::kernels::simd::vectorize;
use qdrop_core::kernels::Conv2dShape;
use rayon::prelude::*;

/// Most positions of all samples that are used: many times as many as there are columns.
const POSITIONS: usize = 1 << 15;
/// Columns of a panel.
const PANEL: usize = 8;
/// Columns of half a panel: the sums of half a panel times a panel fit the processor's registers.
const HALF: usize = PANEL / 2;

/// Sums over positions of the products of the inputs that a layer's weights of one filter multiply: X X^T, for each group of
/// the convolution. The sums do not depend on the number of threads.
pub struct Moments {
    shape: Conv2dShape,
    /// Every position whose number is a multiple of this is used.
    stride: usize,
    /// Positions of the samples that were added.
    seen: usize,
    /// For each group the sums, row by row; rows and columns are padded to whole panels, and only panels up to the diagonal
    /// are computed.
    sums: Vec<Vec<f64>>,
}

impl Moments {
    /// Nothing was added yet. There will be `samples` samples of about the size of `shape`.
    pub fn new(shape: Conv2dShape, samples: usize) -> Self {
        let each = shape.out_height() * shape.out_width();
        let mut stride = (samples * each).div_ceil(POSITIONS).max(1);
        // With a common divisor, only some rows or columns of the images would be used.
        while gcd(stride, each) > 1 {
            stride += 1;
        }
        let columns = columns(&shape).next_multiple_of(PANEL);
        Self { shape, stride, seen: 0, sums: vec![vec![0.0; columns * columns]; shape.groups] }
    }

    /// Adds samples (N, C, H, W) of this height and width.
    pub fn add(&mut self, [in_height, in_width]: [usize; 2], x: &[f32]) {
        self.shape = Conv2dShape { in_height, in_width, ..self.shape };
        let s = &self.shape;
        let image = s.in_channels * s.in_height * s.in_width;
        let each = s.out_height() * s.out_width();
        let (begin, end) = (self.seen, self.seen + x.len() / image * each);
        self.seen = end;
        let positions: Vec<usize> =
            (begin.next_multiple_of(self.stride)..end).step_by(self.stride).map(|p| p - begin).collect();
        self.sums.par_iter_mut().enumerate().for_each(|(group, sums)| {
            let panels = panels(s, x, group, &positions);
            let columns = columns(s).next_multiple_of(PANEL);
            sums.par_chunks_mut(PANEL * columns).enumerate().for_each(|(a, rows)| {
                let of = |panel: usize| &panels[panel * PANEL * positions.len()..][..PANEL * positions.len()];
                for b in 0..=a {
                    vectorize(
                        #[inline(always)]
                        || add_tile(of(a), of(b), rows, columns, b * PANEL),
                    );
                }
            });
        });
    }

    /// The symmetric matrix X X^T of each group, without padding.
    pub fn finish(&self) -> Vec<Vec<f64>> {
        let n = columns(&self.shape);
        let padded = n.next_multiple_of(PANEL);
        let at = |sums: &[f64], i: usize| sums[(i / n).max(i % n) * padded + (i / n).min(i % n)];
        self.sums.iter().map(|sums| (0..n * n).map(|i| at(sums, i)).collect()).collect()
    }
}

/// Weights of a filter.
fn columns(s: &Conv2dShape) -> usize {
    s.in_channels / s.groups * s.kernel[0] * s.kernel[1]
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

/// What the weights of a filter multiply at these positions, panel by panel: for each position the values of its columns.
/// Columns are in the order (channel, row, column) of the weight's.
fn panels(s: &Conv2dShape, x: &[f32], group: usize, positions: &[usize]) -> Vec<f64> {
    let (channels, taps) = (s.in_channels / s.groups, s.kernel[0] * s.kernel[1]);
    let (pixels, each) = (s.in_height * s.in_width, s.out_height() * s.out_width());
    let mut panels = vec![0.0; columns(s).next_multiple_of(PANEL) * positions.len()];
    for (place, position) in positions.iter().enumerate() {
        let (image, y, column) = (position / each, position % each / s.out_width(), position % s.out_width());
        let planes = &x[(image * s.in_channels + group * channels) * pixels..][..channels * pixels];
        for tap in 0..taps {
            let [top, left] = [y * s.stride[0], column * s.stride[1]];
            let row = (top + tap / s.kernel[1] * s.dilation[0]).wrapping_sub(s.padding.top);
            let column = (left + tap % s.kernel[1] * s.dilation[1]).wrapping_sub(s.padding.left);
            if row >= s.in_height || column >= s.in_width {
                continue;
            }
            for channel in 0..channels {
                let i = channel * taps + tap;
                panels[(i / PANEL * positions.len() + place) * PANEL + i % PANEL] =
                    f64::from(planes[channel * pixels + row * s.in_width + column]);
            }
        }
    }
    panels
}

/// Adds the products of two panels to `sums`, from the column `first` on.
#[inline(always)]
fn add_tile(a: &[f64], b: &[f64], sums: &mut [f64], columns: usize, first: usize) {
    for half in 0..PANEL / HALF {
        let mut tile = [[0.0; PANEL]; HALF];
        for (a, b) in a.as_chunks::<PANEL>().0.iter().zip(b.as_chunks::<PANEL>().0) {
            for (row, a) in tile.iter_mut().zip(&a[half * HALF..]) {
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        for (r, row) in tile.iter().enumerate() {
            let out = &mut sums[(half * HALF + r) * columns + first..][..PANEL];
            out.iter_mut().zip(row).for_each(|(out, sum)| *out += sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_core::kernels::testing::uniform;
    use qdrop_core::ops::Padding;

    #[test]
    fn moments_are_the_sums_of_products() {
        let plain = Conv2dShape {
            batch: 1,
            in_channels: 6,
            in_height: 7,
            in_width: 5,
            out_channels: 4,
            kernel: [3, 2],
            stride: [2, 1],
            padding: Padding { top: 1, bottom: 1, left: 1, right: 0 },
            dilation: [1, 2],
            groups: 2,
        };
        for shape in [plain, Conv2dShape { kernel: [1, 1], padding: Padding::default(), groups: 1, ..plain }] {
            let (samples, n) = (5, columns(&shape));
            let x = uniform(samples * 6 * 35, -1.0..1.0, 1);
            let mut moments = Moments::new(shape, samples);
            assert_eq!(moments.stride, 1);
            moments.add([7, 5], &x[..3 * 210]);
            moments.add([7, 5], &x[3 * 210..]);
            let got = moments.finish();
            for (group, got) in got.iter().enumerate() {
                // The value that column `i` reads at a position.
                let read = |sample: usize, y: usize, column: usize, i: usize| {
                    let taps = shape.kernel[0] * shape.kernel[1];
                    let (channel, tap) = (group * 6 / shape.groups + i / taps, i % taps);
                    let row = (y * 2 + tap / shape.kernel[1]) as isize - shape.padding.top as isize;
                    let column = (column + tap % shape.kernel[1] * 2) as isize - shape.padding.left as isize;
                    let inside = (0..7).contains(&row) && (0..5).contains(&column);
                    let at = |row: usize, column: usize| x[((sample * 6 + channel) * 7 + row) * 5 + column];
                    if inside {
                        f64::from(at(row as usize, column as usize))
                    } else {
                        0.0
                    }
                };
                for i in 0..n {
                    for j in 0..n {
                        let mut want = 0.0;
                        for sample in 0..samples {
                            for y in 0..shape.out_height() {
                                for column in 0..shape.out_width() {
                                    want += read(sample, y, column, i) * read(sample, y, column, j);
                                }
                            }
                        }
                        assert!((got[i * n + j] - want).abs() < 1e-9, "group {group}: {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn of_very_many_positions_some_of_every_row_and_column_are_used() {
        let shape = Conv2dShape {
            batch: 1,
            in_channels: 1,
            in_height: 112,
            in_width: 112,
            out_channels: 1,
            kernel: [1, 1],
            stride: [1, 1],
            padding: Padding::default(),
            dilation: [1, 1],
            groups: 1,
        };
        let moments = Moments::new(shape, 256);
        let used: Vec<usize> = (0..256 * 112 * 112).step_by(moments.stride).collect();
        assert!(used.len() <= POSITIONS && used.len() > POSITIONS / 2, "{}", used.len());
        for pick in [|p: usize| p % 112, |p: usize| p / 112 % 112] {
            let mut counts = [0; 112];
            used.iter().for_each(|p| counts[pick(*p)] += 1);
            assert!(counts.iter().all(|count| *count > used.len() / 224), "{counts:?}");
        }
    }
}
