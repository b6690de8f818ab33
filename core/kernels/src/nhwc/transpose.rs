//! Conversion between planar images (C, H, W) and channels-last images (H, W, C).

use super::layout::Layout;
use super::parts::Parts;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Pixels and channels of a block that is transposed at once: a cache line of each plane.
const BLOCK: usize = 16;

/// Converts one planar image into the channels-last image `out`, whose border is left as it is.
pub fn from_planes(planes: &[f32], layout: Layout, out: &mut [f32]) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    assert!(planes.len() == height * layout.values() && out.len() >= layout.image());
    let out = Parts::new(out);
    (0..height).into_par_iter().with_min_len(4).for_each(|y| {
        // SAFETY: every task writes a row of its own.
        let row = unsafe { out.take(layout.offset(0, y), layout.values()) };
        vectorize(
            #[inline(always)]
            || {
                for first in (0..width).step_by(BLOCK) {
                    let pixels = BLOCK.min(width - first);
                    for channel in (0..channels).step_by(BLOCK) {
                        let lanes = BLOCK.min(channels - channel);
                        let mut block = [[0.0; BLOCK]; BLOCK];
                        for (c, line) in block[..lanes].iter_mut().enumerate() {
                            let from = ((channel + c) * height + y) * width + first;
                            line[..pixels].copy_from_slice(&planes[from..from + pixels]);
                        }
                        if lanes < 4 {
                            // For the colour channels of an image, transposing a whole block would cost more.
                            for x in 0..pixels {
                                for (c, line) in block[..lanes].iter().enumerate() {
                                    row[(first + x) * channels + channel + c] = line[x];
                                }
                            }
                            continue;
                        }
                        for x in 0..pixels {
                            let pixel = transposed(&block, x);
                            let at = (first + x) * channels + channel;
                            row[at..at + lanes].copy_from_slice(&pixel[..lanes]);
                        }
                    }
                }
            },
        );
    });
}

/// One column of a block.
#[inline(always)]
fn transposed(block: &[[f32; BLOCK]; BLOCK], x: usize) -> [f32; BLOCK] {
    let mut column = [0.0; BLOCK];
    for (value, line) in column.iter_mut().zip(block) {
        *value = line[x];
    }
    column
}

/// Converts one channels-last image into planes.
pub fn to_planes(image: &[f32], layout: Layout, planes: &mut [f32]) {
    let (height, width, channels) = (layout.height, layout.width, layout.channels);
    assert!(planes.len() == height * layout.values() && image.len() >= layout.image());
    vectorize(
        #[inline(always)]
        || {
            for y in 0..height {
                let row = &image[layout.offset(0, y)..][..layout.values()];
                for first in (0..width).step_by(BLOCK) {
                    let pixels = BLOCK.min(width - first);
                    for channel in (0..channels).step_by(BLOCK) {
                        let lanes = BLOCK.min(channels - channel);
                        let mut block = [[0.0; BLOCK]; BLOCK];
                        for (x, pixel) in block[..pixels].iter_mut().enumerate() {
                            let from = (first + x) * channels + channel;
                            pixel[..lanes].copy_from_slice(&row[from..from + lanes]);
                        }
                        for c in 0..lanes {
                            let line = transposed(&block, c);
                            let at = ((channel + c) * height + y) * width + first;
                            planes[at..at + pixels].copy_from_slice(&line[..pixels]);
                        }
                    }
                }
            }
        },
    );
}
