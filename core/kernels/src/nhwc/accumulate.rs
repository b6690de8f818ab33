//! Sums of channels-last images.

use super::layout::{Read, Written};
use super::parts::Parts;
use rayon::prelude::*;

/// Adds the values of `x` to those of `out`, which may have another border.
///
/// # Panics
/// The sizes of the images differ.
pub fn accumulate((x, x_layout): Read<'_>, (out, layout): Written<'_>) {
    let sizes = |l: super::Layout| [l.batch, l.height, l.width, l.channels];
    assert_eq!(sizes(x_layout), sizes(layout), "images of equal size");
    let rows = layout.height;
    let out = Parts::new(out);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let (image, row) = (i / rows, i % rows);
        // SAFETY: every task writes a row of its own.
        let line = unsafe { out.take(layout.offset(image, row), layout.values()) };
        for (o, v) in line.iter_mut().zip(&x[x_layout.offset(image, row)..]) {
            *o += v;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::{Buffer, Layout};
    use super::*;

    #[test]
    fn rows_are_added_whatever_the_borders() {
        let x = Layout { batch: 2, height: 3, width: 2, channels: 5, border: 1 };
        let out = Layout { border: 2, ..x };
        let (mut a, mut b) = (Buffer::zeros(x.len()), Buffer::zeros(out.len()));
        let values = |layout: Layout, buffer: &mut [f32], scale: f32| {
            for i in 0..layout.batch * layout.height {
                let at = layout.offset(i / layout.height, i % layout.height);
                for (j, v) in buffer[at..at + layout.values()].iter_mut().enumerate() {
                    *v = scale * (i * layout.values() + j) as f32;
                }
            }
        };
        values(x, &mut a, 1.0);
        values(out, &mut b, 2.0);
        accumulate((&a, x), (&mut b, out));
        let mut want = Buffer::zeros(out.len());
        values(out, &mut want, 3.0);
        // The borders stay zero.
        assert_eq!(&b[..], &want[..]);
    }
}
