//! Kernels of `convolution.cu` and `depthwise.cu`: the three passes of a convolution.

use super::super::abi::Geometry;
use super::super::device::{Buffer, Device};
use super::{blocks, launch};
use crate::error::Result;
use qdrop_kernels::conv::Conv2dShape;

/// Rows and columns of a tile of a convolution's product.
const TILE: usize = 64;

/// Checks the sizes of a convolution's values, or of their gradients.
pub fn check(s: &Conv2dShape, [x, w, y]: [&Buffer<f32>; 3]) {
    let want = [s.input_len(), s.weight_len(), s.output_len()];
    assert_eq!([x.len(), w.len(), y.len()], want, "a convolution");
}

/// Whether the kernels of depthwise convolutions take it.
pub fn is_depthwise(s: &Conv2dShape) -> bool {
    s.groups > 1 && s.groups == s.in_channels && s.groups == s.out_channels
}

/// Kernels of a depthwise convolution's three passes that compute four channels of four pixels at once.
#[derive(Clone, Copy)]
struct Strips {
    forward: &'static str,
    input: &'static str,
    weight: &'static str,
}

const STRIPS: [Strips; 4] = [
    Strips { forward: "depthwise_3_1", input: "depthwise_input_3_1", weight: "depthwise_weight_3_1" },
    Strips { forward: "depthwise_3_2", input: "depthwise_input_3_2", weight: "depthwise_weight_3_2" },
    Strips { forward: "depthwise_5_1", input: "depthwise_input_5_1", weight: "depthwise_weight_5_1" },
    Strips { forward: "depthwise_5_2", input: "depthwise_input_5_2", weight: "depthwise_weight_5_2" },
];

/// The kernels for a shape, if there are such.
fn strips(s: &Conv2dShape) -> Option<Strips> {
    let fits = is_depthwise(s) && s.out_channels.is_multiple_of(4) && s.dilation == [1, 1];
    let at = match (s.kernel, s.stride) {
        _ if !fits => None,
        ([3, 3], [1, 1]) => Some(0),
        ([3, 3], [2, 2]) => Some(1),
        ([5, 5], [1, 1]) => Some(2),
        ([5, 5], [2, 2]) => Some(3),
        _ => None,
    };
    at.map(|at| STRIPS[at])
}

/// Strips of four pixels in images of this size.
fn strips_of(batch: usize, height: usize, width: usize) -> usize {
    batch * height * width.div_ceil(4)
}

pub fn convolve(d: &dyn Device, s: &Conv2dShape, x: &Buffer<f32>, w: &Buffer<f32>, y: &Buffer<f32>) -> Result<()> {
    check(s, [x, w, y]);
    let (x, w, y, g) = (x.address(), w.address(), y.address(), Geometry::new(s));
    if let Some(strips) = strips(s) {
        let count = strips_of(s.batch, s.out_height(), s.out_width()) * s.out_channels / 4;
        return launch!(d, strips.forward, blocks(count), x, w, y, g);
    }
    if is_depthwise(s) {
        return launch!(d, "depthwise", blocks(s.output_len()), x, w, y, g);
    }
    let pixels = s.output_len() / s.out_channels;
    let tiles = [pixels.div_ceil(TILE), (s.out_channels / s.groups).div_ceil(TILE), s.groups];
    launch!(d, "convolve", tiles.map(|n| n as u32), x, w, y, g)
}

pub fn convolve_input(
    d: &dyn Device,
    s: &Conv2dShape,
    gx: &Buffer<f32>,
    w: &Buffer<f32>,
    gy: &Buffer<f32>,
) -> Result<()> {
    check(s, [gx, w, gy]);
    let (gx, w, gy, g) = (gx.address(), w.address(), gy.address(), Geometry::new(s));
    if let Some(strips) = strips(s) {
        let count = strips_of(s.batch, s.in_height, s.in_width) * s.in_channels / 4;
        return launch!(d, strips.input, blocks(count), gy, w, gx, g);
    }
    if is_depthwise(s) {
        return launch!(d, "depthwise_input", blocks(s.input_len()), gy, w, gx, g);
    }
    let pixels = s.input_len() / s.in_channels;
    let tiles = [pixels.div_ceil(TILE), (s.in_channels / s.groups).div_ceil(TILE), s.groups];
    launch!(d, "convolve_input", tiles.map(|n| n as u32), gy, w, gx, g)
}

/// Tiles of a weight's gradient.
fn weight_tiles(s: &Conv2dShape) -> usize {
    if is_depthwise(s) {
        return s.out_channels.div_ceil(32);
    }
    (s.out_channels / s.groups).div_ceil(TILE) * (s.weight_len() / s.out_channels).div_ceil(TILE)
}

/// What the parts of a weight's gradient add: pixels, or strips of them.
fn terms_of_weight(s: &Conv2dShape) -> usize {
    match strips(s) {
        Some(_) => strips_of(s.batch, s.out_height(), s.out_width()),
        None => s.output_len() / s.out_channels,
    }
}

/// Parts of a weight's gradient: as many as keep a large device busy, depending on the shape alone.
pub fn weight_parts(s: &Conv2dShape) -> usize {
    let groups = if is_depthwise(s) { 1 } else { s.groups };
    let wanted = 1024 / (weight_tiles(s) * groups).max(1);
    wanted.clamp(1, terms_of_weight(s).div_ceil(256))
}

/// The gradient of a weight; `parts` has room for [`weight_parts`] of them.
pub fn convolve_weight(
    d: &dyn Device,
    s: &Conv2dShape,
    x: &Buffer<f32>,
    gw: &Buffer<f32>,
    gy: &Buffer<f32>,
    parts: &Buffer<f32>,
) -> Result<()> {
    check(s, [x, gw, gy]);
    let count = weight_parts(s);
    assert_eq!(parts.len(), count * gw.len(), "parts of a gradient");
    let (each, tiles) = (terms_of_weight(s).div_ceil(count) as u32, weight_tiles(s) as u32);
    let (x, gy, g) = (x.address(), gy.address(), Geometry::new(s));
    if let Some(strips) = strips(s) {
        launch!(d, strips.weight, [tiles, count as u32, 1], x, gy, parts.address(), each, g)?;
    } else if is_depthwise(s) {
        let kernel = if s.kernel[0] * s.kernel[1] <= 9 { "depthwise_weight" } else { "depthwise_weight_wide" };
        launch!(d, kernel, [tiles, count as u32, 1], x, gy, parts.address(), each, g)?;
    } else {
        launch!(d, "convolve_weight", [tiles, count as u32, s.groups as u32], x, gy, parts.address(), each, g)?;
    }
    launch!(d, "add_parts", blocks(gw.len()), parts.address(), count as u32, gw.len() as u32, gw.address())
}
