//! Between planes of channels (C, H, W) and channels that lie together (H, W, C).

use super::Layout;

/// Pixels of a block: a cache line of each plane.
const BLOCK: usize = 16;

/// Calls `body(place in planes, place in the image)` block by block, for pixels of one image.
#[inline(always)]
fn for_each(layout: Layout, mut body: impl FnMut(usize, usize)) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    for y in 0..height {
        let row = layout.offset(0, y);
        for first in (0..width).step_by(BLOCK) {
            let last = (first + BLOCK).min(width);
            for c in 0..channels {
                let plane = (c * height + y) * width;
                for x in first..last {
                    body(plane + x, row + x * channels + c);
                }
            }
        }
    }
}

/// Writes one image, given as planes, into `out`; the border stays as it is.
pub fn from_planes(planes: &[f32], layout: Layout, out: &mut [f32]) {
    assert!(planes.len() == layout.height * layout.values() && out.len() >= layout.image());
    for_each(layout, |from, to| out[to] = planes[from]);
}

/// Writes the planes of one image.
pub fn to_planes(image: &[f32], layout: Layout, planes: &mut [f32]) {
    assert!(planes.len() == layout.height * layout.values() && image.len() >= layout.image());
    for_each(layout, |to, from| planes[to] = image[from]);
}
