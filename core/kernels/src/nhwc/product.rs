//! Products of channels-last images, value by value or with one factor for each channel of an image (the gate of a
//! squeeze-and-excitation, arXiv 1709.01507), and their gradients.

use super::each::{check_pixels, each_row, put_pairs, row_of};
use super::layout::{Layout, Read, Write, Written};
use super::parts::Parts;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Channels that one task sums: the f64 sums of so many stay in registers.
const CHANNELS: usize = 32;

/// Whether images of layout `factor` are one pixel that multiplies every pixel of images of layout `x`.
fn is_pixel(factor: Layout, x: Layout) -> bool {
    factor.height * factor.width == 1 && x.height * x.width > 1
}

/// Writes `x * factor`. The factor has the size of x, or is one pixel for all pixels of its image. The gradient of x is
/// the product of the value's gradient with the factor; that of a factor of equal size is the product with x.
///
/// # Panics
/// The sizes do not fit each other.
pub fn multiply(x: Read<'_>, factor: Read<'_>, write: Write, out: Written<'_>) {
    check_pixels(x.1, out.1);
    let channels = x.1.channels;
    assert_eq!([factor.1.batch, factor.1.channels, out.1.channels], [x.1.batch, channels, channels], "factors");
    if is_pixel(factor.1, x.1) {
        each_row(
            out,
            #[inline(always)]
            |[image, row], line| {
                let factors = &row_of(factor, [image, 0])[..channels];
                let pixels = row_of(x, [image, row]).chunks_exact(channels);
                for (out, x) in line.chunks_exact_mut(channels).zip(pixels) {
                    put_pairs(write, out, [x, factors], |x, factor| x * factor);
                }
            },
        );
    } else {
        check_pixels(x.1, factor.1);
        each_row(
            out,
            #[inline(always)]
            |place, line| put_pairs(write, line, [row_of(x, place), row_of(factor, place)], |x, factor| x * factor),
        );
    }
}

/// The gradient of a factor of one pixel: writes, for each image and channel, the sum over all pixels of `gradient * x`.
/// Products are summed in f64, pixel by pixel.
///
/// # Panics
/// The sizes do not fit each other.
pub fn multiply_sum(gradient: Read<'_>, x: Read<'_>, write: Write, (out, layout): Written<'_>) {
    check_pixels(gradient.1, x.1);
    let channels = layout.channels;
    assert_eq!([gradient.1.channels, x.1.channels, x.1.batch], [channels, channels, layout.batch], "factors");
    assert_eq!(layout.height * layout.width, 1, "one pixel");
    let blocks = channels.div_ceil(CHANNELS);
    let out = Parts::new(out);
    (0..layout.batch * blocks).into_par_iter().for_each(|i| {
        let (image, first) = (i / blocks, i % blocks * CHANNELS);
        let count = CHANNELS.min(channels - first);
        // SAFETY: every task writes channels of its own.
        let out = unsafe { out.take(layout.offset(image, 0) + first, count) };
        vectorize(
            #[inline(always)]
            || match count {
                32 => sums::<32>(gradient, x, image, first, write, out),
                24 => sums::<24>(gradient, x, image, first, write, out),
                16 => sums::<16>(gradient, x, image, first, write, out),
                8 => sums::<8>(gradient, x, image, first, write, out),
                _ => {
                    for (c, out) in out.iter_mut().enumerate() {
                        sums::<1>(gradient, x, image, first + c, write, std::slice::from_mut(out));
                    }
                }
            },
        );
    });
}

/// The sums of `N` channels from `first` on.
#[inline(always)]
fn sums<const N: usize>(gradient: Read<'_>, x: Read<'_>, image: usize, first: usize, write: Write, out: &mut [f32]) {
    let channels = x.1.channels;
    let mut sums = [0.0_f64; N];
    for row in 0..x.1.height {
        let (g, x) = (row_of(gradient, [image, row]), row_of(x, [image, row]));
        for (g, x) in g.chunks_exact(channels).zip(x.chunks_exact(channels)) {
            let (g, x) = (&g[first..first + N], &x[first..first + N]);
            for ((sum, g), x) in sums.iter_mut().zip(g).zip(x) {
                *sum += f64::from(*g) * f64::from(*x);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = write.over(*out, sum as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::images;
    use proptest::prelude::*;

    /// A value: image, row, column, channel.
    fn at(layout: Layout, [n, y, x, c]: [usize; 4]) -> usize {
        layout.offset(n, y) + x * layout.channels + c
    }

    /// Places of all values.
    fn places(l: Layout) -> impl Iterator<Item = [usize; 4]> {
        let size = l.height * l.values();
        (0..l.batch * size).map(move |i| {
            let (n, i) = (i / size, i % size);
            [n, i / l.values(), i % l.values() / l.channels, i % l.channels]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]
        #[test]
        fn products_and_their_gradients_agree_with_plain_loops(
            batch in 1_usize..4, height in 1_usize..6, width in 1_usize..7,
            channels in prop::sample::select(vec![1_usize, 3, 8, 16, 24, 32, 37, 48, 104]),
            borders in prop::array::uniform3(0_usize..3), one in any::<bool>(), add in any::<bool>(),
        ) {
            let x = Layout { batch, height, width, channels, border: borders[0] };
            let out = Layout { border: borders[1], ..x };
            let factor = match one {
                true => Layout { height: 1, width: 1, border: borders[2], ..x },
                false => Layout { border: borders[2], ..x },
            };
            let write = if add { Write::Add } else { Write::Replace };
            let (a, b) = (images(x, 1), images(factor, 2));
            let before = images(out, 3);
            let mut got = before.clone();
            multiply((&a, x), (&b, factor), write, (&mut got, out));
            let mut want = before;
            for [n, r, c, k] in places(out) {
                let own = if one { [n, 0, 0, k] } else { [n, r, c, k] };
                let product = a[at(x, [n, r, c, k])] * b[at(factor, own)];
                let place = at(out, [n, r, c, k]);
                want[place] = if add { want[place] + product } else { product };
            }
            prop_assert_eq!(&got[..], &want[..]);
            if one {
                let before = images(factor, 4);
                let mut got = before.clone();
                multiply_sum((&a, x), (&want, out), write, (&mut got, factor));
                let mut sums = vec![0.0_f64; batch * channels];
                for [n, r, c, k] in places(x) {
                    let (g, x) = (a[at(x, [n, r, c, k])], want[at(out, [n, r, c, k])]);
                    sums[n * channels + k] += f64::from(g) * f64::from(x);
                }
                let mut want = before;
                for [n, _, _, k] in places(factor) {
                    let (place, sum) = (at(factor, [n, 0, 0, k]), sums[n * channels + k] as f32);
                    want[place] = if add { want[place] + sum } else { sum };
                }
                prop_assert_eq!(&got[..], &want[..]);
            }
        }
    }
}
