//! Between planes of channels (C, H, W) and channels that lie together (H, W, C).

use super::shared::Shared;
use super::Layout;
use rayon::prelude::*;

/// Pixels of a block: a cache line of each plane.
const BLOCK: usize = 16;

/// Calls `body(place in a plane's row, place in the image's row, channel)` block by block.
#[inline(always)]
fn for_each(width: usize, channels: usize, mut body: impl FnMut(usize, usize, usize)) {
    for first in (0..width).step_by(BLOCK) {
        let last = (first + BLOCK).min(width);
        for c in 0..channels {
            for x in first..last {
                body(x, x * channels + c, c);
            }
        }
    }
}

/// Writes one image, given as planes, into `out`; the border stays as it is.
pub fn from_planes(planes: &[f32], layout: Layout, out: &mut [f32]) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    assert!(planes.len() == height * layout.values() && out.len() >= layout.image());
    let out = Shared::new(out);
    (0..height).into_par_iter().with_min_len(4).for_each(|y| {
        // SAFETY: every task writes a row of its own.
        let row = unsafe { out.part(layout.offset(0, y), layout.values()) };
        for_each(width, channels, |x, at, c| row[at] = planes[(c * height + y) * width + x]);
    });
}

/// Writes the planes of one image.
pub fn to_planes(image: &[f32], layout: Layout, planes: &mut [f32]) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    assert!(planes.len() == height * layout.values() && image.len() >= layout.image());
    for y in 0..height {
        let row = &image[layout.offset(0, y)..][..layout.values()];
        for_each(width, channels, |x, at, c| planes[(c * height + y) * width + x] = row[at]);
    }
}
