//! Operations that move or scale the channels of channels-last images: concatenations, slices, shuffles, and an affine
//! function of each channel.

use super::each::{check_pixels, each_row, put, row_of};
use super::layout::{Read, Write, Written};

/// Writes channels of `x`, as many as `count` from channel `from` on, to the channels of `out` from `to` on. Others stay as they
/// are. A concatenation is this for each of its parts, and its gradient is this backwards.
///
/// # Panics
/// The sizes of the images differ, or there are not so many channels.
pub fn copy_channels(x: Read<'_>, from: usize, count: usize, write: Write, out: Written<'_>, to: usize) {
    check_pixels(x.1, out.1);
    let (read, written) = (x.1.channels, out.1.channels);
    assert!(from + count <= read && to + count <= written, "{count} channels of {read} for {written}");
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            for (out, x) in line.chunks_exact_mut(written).zip(row_of(x, place).chunks_exact(read)) {
                put(write, &mut out[to..to + count], &x[from..from + count], |v| v);
            }
        },
    );
}

/// Writes the gradient of what some channels were taken from, from the gradient of these channels, of which the first one is
/// channel `to`: with [`Write::Replace`], other channels become zero.
///
/// # Panics
/// The sizes of the images differ, or there are not so many channels.
pub fn spread_channels(gradient: Read<'_>, write: Write, out: Written<'_>, to: usize) {
    check_pixels(gradient.1, out.1);
    let (read, written) = (gradient.1.channels, out.1.channels);
    assert!(to + read <= written, "{read} channels from {to} on of {written}");
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            for (out, x) in line.chunks_exact_mut(written).zip(row_of(gradient, place).chunks_exact(read)) {
                if write == Write::Replace {
                    out[..to].fill(0.0);
                    out[to + read..].fill(0.0);
                }
                put(write, &mut out[to..to + read], x, |v| v);
            }
        },
    );
}

/// Reads the channels of each pixel, as rows of `groups` groups, column by column (ShuffleNet, arXiv 1707.01083, figure 1):
/// channel `c` becomes channel `c % groups * (channels / groups) + c / groups` of x. The gradient is the same with
/// `channels / groups` groups.
///
/// # Panics
/// The sizes of the images differ, or the groups do not divide the channels.
pub fn shuffle_channels(x: Read<'_>, groups: usize, write: Write, out: Written<'_>) {
    check_pixels(x.1, out.1);
    let channels = x.1.channels;
    assert!(out.1.channels == channels && channels.is_multiple_of(groups), "{groups} groups of {channels} channels");
    let each = channels / groups;
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            for (out, x) in line.chunks_exact_mut(channels).zip(row_of(x, place).chunks_exact(channels)) {
                for (i, out) in out.chunks_exact_mut(groups).enumerate() {
                    for (j, out) in out.iter_mut().enumerate() {
                        *out = write.over(*out, x[j * each + i]);
                    }
                }
            }
        },
    );
}

/// Writes `x * factor + offset`, with one factor and one offset for each channel (batch normalization with running
/// statistics). The gradient is the same of the value's gradient, without offsets.
///
/// # Panics
/// The sizes do not fit each other.
pub fn affine(x: Read<'_>, factors: &[f32], offsets: Option<&[f32]>, write: Write, out: Written<'_>) {
    check_pixels(x.1, out.1);
    let channels = x.1.channels;
    assert!([out.1.channels, factors.len()] == [channels; 2] && offsets.is_none_or(|o| o.len() == channels), "factors");
    each_row(
        out,
        #[inline(always)]
        |place, line| {
            for (out, x) in line.chunks_exact_mut(channels).zip(row_of(x, place).chunks_exact(channels)) {
                // Two loops, which do not branch on the offset.
                match offsets {
                    Some(offsets) => {
                        for (((out, x), factor), offset) in out.iter_mut().zip(x).zip(factors).zip(offsets) {
                            *out = write.over(*out, x * factor + offset);
                        }
                    }
                    None => {
                        for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
                            *out = write.over(*out, x * factor);
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Buffer, Layout};
    use super::*;
    use crate::testing::{images, uniform};
    use proptest::prelude::*;

    /// Compares with `value`, which gives the value to write at (channel) of a pixel, or none where nothing is written.
    fn check(
        write: Write,
        [x, out]: [Layout; 2],
        run: impl Fn(Read<'_>, Written<'_>),
        value: impl Fn(&[f32], usize) -> Option<f32>,
    ) {
        let (values, before) = (images(x, 1), images(out, 2));
        let (mut got, mut want) = (before.clone(), before);
        run((&values, x), (&mut got, out));
        for i in 0..out.batch * out.height * out.width {
            let (image, row, column) = (i / (out.height * out.width), i / out.width % out.height, i % out.width);
            let pixel = &values[x.offset(image, row) + column * x.channels..][..x.channels];
            for c in 0..out.channels {
                let own = &mut want[out.offset(image, row) + column * out.channels + c];
                if let Some(value) = value(pixel, c) {
                    *own = if write == Write::Add { *own + value } else { value };
                }
            }
        }
        assert_eq!(&got[..], &want[..]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]
        #[test]
        fn channels_are_moved_and_scaled_as_plain_loops_do(
            batch in 1_usize..3, height in 1_usize..5, width in 1_usize..6,
            sizes in prop::array::uniform3(1_usize..40), borders in prop::array::uniform2(0_usize..3),
            groups in 1_usize..6, add in any::<bool>(),
        ) {
            let [before, count, after] = sizes;
            let write = if add { Write::Add } else { Write::Replace };
            let wide = before - 1 + count + after - 1;
            let first = before - 1;
            let x = Layout { batch, height, width, channels: wide, border: borders[0] };
            let narrow = Layout { channels: count, border: borders[1], ..x };
            // A slice, a part of a concatenation, and the gradient of a slice.
            check(write, [x, narrow], |x, out| copy_channels(x, first, count, write, out, 0), |x, c| Some(x[first + c]));
            let inside = |c: usize| (first..first + count).contains(&c);
            check(write, [narrow, x], |x, out| copy_channels(x, 0, count, write, out, first), |x, c| {
                inside(c).then(|| x[c - first])
            });
            check(write, [narrow, x], |x, out| spread_channels(x, write, out, first), |x, c| {
                Some(if inside(c) { x[c - first] } else { 0.0 })
            });
            let grouped = Layout { channels: count * groups, ..x };
            let out = Layout { border: borders[1], ..grouped };
            check(write, [grouped, out], |x, out| shuffle_channels(x, groups, write, out), |x, c| {
                Some(x[c % groups * count + c / groups])
            });
            // Its gradient, the shuffle that takes it back.
            check(write, [grouped, out], |x, out| shuffle_channels(x, count, write, out), |x, c| {
                Some(x[c % count * groups + c / count])
            });
            let (factors, offsets) = (uniform(wide, 0.5..1.5, 3), uniform(wide, -1.0..1.0, 4));
            let out = Layout { border: borders[1], ..x };
            check(write, [x, out], |x, out| affine(x, &factors, Some(&offsets), write, out), |x, c| {
                Some(x[c] * factors[c] + offsets[c])
            });
            check(write, [x, out], |x, out| affine(x, &factors, None, write, out), |x, c| Some(x[c] * factors[c]));
        }
    }

    #[test]
    fn a_shuffle_and_that_of_its_gradient_cancel_out() {
        let layout = Layout { batch: 1, height: 2, width: 3, channels: 12, border: 0 };
        let values = images(layout, 7);
        let (mut once, mut twice) = (Buffer::zeros(layout.len()), Buffer::zeros(layout.len()));
        shuffle_channels((&values, layout), 3, Write::Replace, (&mut once, layout));
        shuffle_channels((&once, layout), 4, Write::Replace, (&mut twice, layout));
        assert_ne!(once[..], values[..]);
        assert_eq!(twice[..], values[..]);
    }
}
