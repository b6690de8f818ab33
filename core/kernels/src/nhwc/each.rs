//! Loops over the rows of channels-last images.

use super::layout::{Layout, Read, Write, Written};
use super::parts::Parts;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Calls `body` with each row of `out`, and the numbers of its image and of the row in it. Rows are shared out to tasks; the
/// body is compiled for the widest vectors, if it is marked `#[inline(always)]`.
#[inline(always)]
pub fn each_row((out, layout): Written<'_>, body: impl Fn([usize; 2], &mut [f32]) + Sync) {
    let rows = layout.height;
    let out = Parts::new(out);
    (0..layout.batch * rows).into_par_iter().with_min_len(4).for_each(|i| {
        let place = [i / rows, i % rows];
        // SAFETY: every task writes a row of its own.
        let line = unsafe { out.take(layout.offset(place[0], place[1]), layout.values()) };
        vectorize(
            #[inline(always)]
            || body(place, line),
        );
    });
}

/// The values of a row of an image.
#[inline(always)]
pub fn row_of((values, layout): Read<'_>, [image, row]: [usize; 2]) -> &[f32] {
    &values[layout.offset(image, row)..][..layout.values()]
}

/// Writes the values of a function of those of `x`, one for each.
#[inline(always)]
pub fn put(write: Write, out: &mut [f32], x: &[f32], value: impl Fn(f32) -> f32) {
    let pairs = out.iter_mut().zip(x);
    match write {
        Write::Replace => pairs.for_each(|(o, x)| *o = value(*x)),
        Write::Add => pairs.for_each(|(o, x)| *o += value(*x)),
    }
}

/// Writes the values of a function of those of `x` and `y`, one for each pair.
#[inline(always)]
pub fn put_pairs(write: Write, out: &mut [f32], [x, y]: [&[f32]; 2], value: impl Fn(f32, f32) -> f32) {
    let triples = out.iter_mut().zip(x).zip(y);
    match write {
        Write::Replace => triples.for_each(|((o, x), y)| *o = value(*x, *y)),
        Write::Add => triples.for_each(|((o, x), y)| *o += value(*x, *y)),
    }
}

/// Checks that two batches have images of equal height and width, and equally many.
pub fn check_pixels(a: Layout, b: Layout) {
    let sizes = |l: Layout| [l.batch, l.height, l.width];
    assert_eq!(sizes(a), sizes(b), "images of equal height and width");
}
