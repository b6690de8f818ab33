//! Copies and sums of channels-last images.

use super::each::{check_pixels, each_row, put, row_of};
use super::layout::{Read, Write, Written};

/// Adds the values of `x` to those of `out`, or replaces them. The borders may differ.
///
/// # Panics
/// The sizes of the images differ.
pub fn accumulate(x: Read<'_>, write: Write, out: Written<'_>) {
    check_pixels(x.1, out.1);
    assert_eq!(x.1.channels, out.1.channels, "images of equal size");
    each_row(
        out,
        #[inline(always)]
        |place, line| put(write, line, row_of(x, place), |v| v),
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Buffer, Layout};
    use super::*;

    #[test]
    fn rows_are_added_whatever_the_borders() {
        let x = Layout { batch: 2, height: 3, width: 2, channels: 5, border: 1 };
        let out = Layout { border: 2, ..x };
        let values = |layout: Layout, scale: f32| {
            let mut buffer = Buffer::zeros(layout.len());
            for i in 0..layout.batch * layout.height {
                let at = layout.offset(i / layout.height, i % layout.height);
                for (j, v) in buffer[at..at + layout.values()].iter_mut().enumerate() {
                    *v = scale * (i * layout.values() + j) as f32;
                }
            }
            buffer
        };
        for (write, sum) in [(Write::Add, 3.0), (Write::Replace, 1.0)] {
            let mut got = values(out, 2.0);
            accumulate((&values(x, 1.0), x), write, (&mut got, out));
            // The borders stay zero.
            assert_eq!(&got[..], &values(out, sum)[..]);
        }
    }
}
