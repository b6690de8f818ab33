//! The kernels of `core/cuda/` as functions. Each checks that all that its kernel uses lies inside its buffers, as far as
//! sizes say it; numbers of samples, ranges of sums and rows of rates that lie in device memory are checked where they are
//! written.

use super::abi::{name, Choices, Draw, Geometry, Operands, Rates, Regularizer, Rows, Site, Sums, WeightGrid};
use super::device::{Buffer, Device};
use crate::error::Result;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::nhwc::stage::Function;

const THREADS: usize = 256;
/// Rows and columns of a tile of a convolution's product.
const TILE: usize = 64;

/// A grid of one thread for each of `count` elements.
fn blocks(count: usize) -> [u32; 3] {
    [count.div_ceil(THREADS) as u32, 1, 1]
}

/// Launches a kernel. The caller has checked its buffers.
macro_rules! launch {
    ($device:expr, $name:expr, $grid:expr, $($argument:expr),* $(,)?) => {
        // SAFETY: the arguments are those of the kernel's source, and the function checks the buffers.
        unsafe { $device.launch($name, $grid, &[$((&$argument).into()),*]) }
    };
}

fn elements(rows: &Rows) -> usize {
    let lines = rows.groups as usize / (rows.row as usize).div_ceil(qdrop_kernels::drop::GROUP);
    lines * rows.row as usize
}

/// What a stage reads.
#[derive(Clone, Copy)]
pub struct StageInput<'a> {
    pub z: &'a Buffer<f32>,
    pub bias: Option<&'a Buffer<f32>>,
    pub shortcut: Option<&'a Buffer<f32>>,
    pub shortcut_bias: Option<&'a Buffer<f32>>,
    pub kept: &'a Buffer<Choices>,
    pub sites: &'a Buffer<Site>,
    /// The index of its site.
    pub site: usize,
    /// A clip has one bound for each channel.
    pub activation: Option<Function<&'a Buffer<f32>>>,
    pub rows: Rows,
}

impl StageInput<'_> {
    fn check(&self, others: &[usize]) {
        let count = elements(&self.rows);
        assert_eq!(self.z.len(), count, "values of a stage");
        assert!(others.iter().all(|len| *len == count), "values of a stage: {others:?} for {count}");
        assert!(self.shortcut.is_none_or(|s| s.len() == count), "values of a shortcut");
        let channels = self.rows.channels as usize;
        let of_channels = [self.bias, self.shortcut_bias, self.bounds()];
        assert!(of_channels.iter().flatten().all(|b| b.len() == channels), "biases and bounds");
        assert_eq!(self.kept.len(), self.rows.groups as usize, "choices of a stage");
    }

    fn bounds(&self) -> Option<&Buffer<f32>> {
        match self.activation {
            Some(Function::Clip(bounds)) => Some(bounds),
            Some(Function::Activation(_)) | None => None,
        }
    }

    fn operands(&self) -> Operands {
        let address = |b: Option<&Buffer<f32>>| b.map_or(0, Buffer::address);
        Operands {
            bias: address(self.bias),
            shortcut: address(self.shortcut),
            shortcut_bias: address(self.shortcut_bias),
            bounds: address(self.bounds()),
        }
    }

    fn grid(&self) -> [u32; 3] {
        [self.rows.blocks(), 1, 1]
    }
}

pub fn draw_choices(d: &dyn Device, kept: &Buffer<Choices>, draws: &Buffer<Draw>, site: usize) -> Result<()> {
    launch!(d, "draw_choices", blocks(kept.len()), kept.address(), draws.at(site), kept.len() as u32)
}

/// Images by their numbers among samples; the caller has checked the numbers.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    pub values: &'a Buffer<f32>,
    pub numbers: &'a Buffer<u32>,
}

impl Chosen<'_> {
    fn check(&self, rows: &Rows) {
        let image = (rows.row * rows.rows_of_image) as usize;
        assert_eq!(self.numbers.len() * image, elements(rows), "numbers of samples");
        assert!(self.values.len().is_multiple_of(image), "images of samples");
    }
}

pub fn gather_mix(
    d: &dyn Device,
    [quantized, full]: [Chosen<'_>; 2],
    kept: &Buffer<Choices>,
    out: &Buffer<f32>,
    rows: Rows,
) -> Result<()> {
    assert_eq!((out.len(), kept.len()), (elements(&rows), rows.groups as usize), "a mix");
    [quantized, full].iter().for_each(|chosen| chosen.check(&rows));
    let (q, f) = (quantized.values.address(), full.values.address());
    let (qn, fn_) = (quantized.numbers.address(), full.numbers.address());
    launch!(d, "gather_mix", [rows.blocks(), 1, 1], q, qn, f, fn_, kept.address(), out.address(), rows)
}

pub fn forward(d: &dyn Device, input: StageInput<'_>, out: &Buffer<f32>) -> Result<()> {
    const NAMES: [&str; 9] = [
        "forward_none",
        "forward_relu",
        "forward_relu6",
        "forward_silu",
        "forward_hard_swish",
        "forward_hard_sigmoid",
        "forward_sigmoid",
        "forward_gelu",
        "forward_clip",
    ];
    input.check(&[out.len()]);
    let (z, kept, step) = (input.z.address(), input.kept.address(), input.sites.at(input.site));
    let kernel = NAMES[name(input.activation)];
    launch!(d, kernel, input.grid(), z, input.operands(), kept, step, out.address(), input.rows)
}

/// `sums` takes a number for each block, from element `first` on.
pub fn backward(
    d: &dyn Device,
    input: StageInput<'_>,
    gradient: &Buffer<f32>,
    sums: &Buffer<Sums>,
    first: usize,
) -> Result<()> {
    const NAMES: [&str; 9] = [
        "backward_none",
        "backward_relu",
        "backward_relu6",
        "backward_silu",
        "backward_hard_swish",
        "backward_hard_sigmoid",
        "backward_sigmoid",
        "backward_gelu",
        "backward_clip",
    ];
    input.check(&[gradient.len()]);
    assert!(first + input.rows.blocks() as usize <= sums.len(), "sums of a stage");
    let (z, kept, step) = (input.z.address(), input.kept.address(), input.sites.at(input.site));
    let kernel = NAMES[name(input.activation)];
    launch!(d, kernel, input.grid(), z, input.operands(), kept, step, gradient.address(), sums.at(first), input.rows)
}

/// As [`backward`], of `factor` times the sum of squared differences to the target, both clipped to a range that lets
/// gradients pass.
pub fn end(
    d: &dyn Device,
    input: StageInput<'_>,
    target: Chosen<'_>,
    (factor, [low, high]): (f32, [f32; 2]),
    gradient: &Buffer<f32>,
    sums: &Buffer<Sums>,
    first: usize,
) -> Result<()> {
    const NAMES: [&str; 9] = [
        "end_none",
        "end_relu",
        "end_relu6",
        "end_silu",
        "end_hard_swish",
        "end_hard_sigmoid",
        "end_sigmoid",
        "end_gelu",
        "end_clip",
    ];
    input.check(&[gradient.len()]);
    assert!(first + input.rows.blocks() as usize <= sums.len(), "sums of a stage");
    let (z, kept, step) = (input.z.address(), input.kept.address(), input.sites.at(input.site));
    target.check(&input.rows);
    let (values, numbers) = (target.values.address(), target.numbers.address());
    let (kernel, operands, gradient) = (NAMES[name(input.activation)], input.operands(), gradient.address());
    launch!(
        d,
        kernel,
        input.grid(),
        z,
        operands,
        values,
        numbers,
        kept,
        step,
        factor,
        low,
        high,
        gradient,
        sums.at(first),
        input.rows
    )
}

/// Sums of `totals.len()` sites, whose parts begin at `ranges`.
pub fn add_sums(d: &dyn Device, sums: &Buffer<Sums>, ranges: &Buffer<u32>, totals: &Buffer<Sums>) -> Result<()> {
    assert_eq!(ranges.len(), totals.len() + 1, "ranges of sums");
    launch!(d, "add_sums", [totals.len() as u32, 1, 1], sums.address(), ranges.address(), totals.address())
}

pub fn prepare_sites(d: &dyn Device, sites: &Buffer<Site>) -> Result<()> {
    launch!(d, "prepare_sites", blocks(sites.len()), sites.address(), sites.len() as u32)
}

pub fn learn_sites(d: &dyn Device, sites: &Buffer<Site>, totals: &Buffer<Sums>, rates: &Buffer<Rates>) -> Result<()> {
    assert_eq!(sites.len(), totals.len(), "sums of sites");
    let count = sites.len() as u32;
    launch!(d, "learn_sites", blocks(sites.len()), sites.address(), totals.address(), rates.address(), count)
}

/// The numbers of a weight whose rounding is learned, all of the weight's length.
pub struct Rounding<'a> {
    pub alpha: &'a Buffer<f32>,
    pub mean: &'a Buffer<f32>,
    pub square: &'a Buffer<f32>,
    pub floor: &'a Buffer<f32>,
    pub scale: &'a Buffer<f32>,
    pub zero_point: &'a Buffer<f32>,
    pub bounds: [f32; 2],
    /// Whether weights are rounded hard.
    pub hard: bool,
}

impl Rounding<'_> {
    /// The grid with these scales.
    fn grid(&self, scale: &Buffer<f32>) -> WeightGrid {
        let (len, channels) = (self.alpha.len(), self.zero_point.len());
        assert!(len.is_multiple_of(channels) && scale.len() == channels, "a weight's grid");
        assert_eq!([self.mean.len(), self.square.len(), self.floor.len()], [len; 3], "a weight");
        let [qmin, qmax] = self.bounds;
        let (scale, zero_point) = (scale.address(), self.zero_point.address());
        WeightGrid { scale, zero_point, qmin, qmax, len: (len / channels) as u32, hard: self.hard.into() }
    }
}

pub fn soft_weight(d: &dyn Device, r: &Rounding<'_>, out: &Buffer<f32>) -> Result<()> {
    let (grid, count) = (r.grid(r.scale), r.alpha.len());
    assert_eq!(out.len(), count, "a weight");
    let (alpha, floor) = (r.alpha.address(), r.floor.address());
    launch!(d, "soft_weight", blocks(count), alpha, floor, grid, out.address(), count as u32)
}

pub fn scale_gradient(d: &dyn Device, r: &Rounding<'_>, gradient: &Buffer<f32>, out: &Buffer<f64>) -> Result<()> {
    let grid = r.grid(r.scale);
    assert_eq!((gradient.len(), out.len()), (r.alpha.len(), r.scale.len()), "the gradient of a weight");
    let (alpha, floor, gradient) = (r.alpha.address(), r.floor.address(), gradient.address());
    launch!(d, "scale_gradient", [out.len() as u32, 1, 1], alpha, floor, gradient, grid, out.address())
}

/// One update of alpha, which was used with the scales `used`. `terms` takes the regularizer of each block from `first` on.
#[allow(clippy::too_many_arguments)]
pub fn learn_rounding(
    d: &dyn Device,
    r: &Rounding<'_>,
    used: &Buffer<f32>,
    gradient: &Buffer<f32>,
    (rates, group): (&Buffer<Rates>, usize),
    regularizer: &Buffer<Regularizer>,
    weight: &Buffer<f32>,
    (terms, first): (&Buffer<f64>, usize),
) -> Result<()> {
    let (grid, count) = (r.grid(used), r.alpha.len());
    r.grid(r.scale);
    assert_eq!([gradient.len(), weight.len()], [count; 2], "a weight");
    assert!(first + self::terms(count) <= terms.len(), "terms of the regularizer");
    launch!(
        d,
        "learn_rounding",
        [self::terms(count) as u32, 1, 1],
        r.alpha.address(),
        r.mean.address(),
        r.square.address(),
        r.floor.address(),
        gradient.address(),
        grid,
        r.scale.address(),
        rates.at(group),
        regularizer.address(),
        weight.address(),
        terms.at(first),
        count as u32
    )
}

/// Blocks of [`learn_rounding`], each of which leaves a term.
pub fn terms(weights: usize) -> usize {
    weights.div_ceil(THREADS * 8)
}

/// A variable with one element for each channel, or one for all.
pub struct Channels<'a> {
    pub value: &'a Buffer<f32>,
    pub mean: &'a Buffer<f32>,
    pub square: &'a Buffer<f32>,
    pub size: &'a Buffer<f32>,
    pub gradient: &'a Buffer<f64>,
    pub are_scales: bool,
}

/// One update. `out` takes the values of all channels, `before` those that it had.
pub fn learn_channels(
    d: &dyn Device,
    v: &Channels<'_>,
    (rates, group): (&Buffer<Rates>, usize),
    out: &Buffer<f32>,
    before: Option<&Buffer<f32>>,
) -> Result<()> {
    let (count, channels) = (v.value.len(), v.gradient.len());
    assert!(count == 1 || count == channels, "a variable of {count} elements for {channels} channels");
    assert_eq!([v.mean.len(), v.square.len(), v.size.len(), out.len()], [count, count, count, channels], "a variable");
    assert!(before.is_none_or(|b| b.len() == channels), "earlier values");
    launch!(
        d,
        "learn_channels",
        [1, 1, 1],
        v.value.address(),
        v.mean.address(),
        v.square.address(),
        v.size.address(),
        v.gradient.address(),
        rates.at(group),
        count as u32,
        channels as u32,
        out.address(),
        before.map_or(0, Buffer::address),
        u32::from(v.are_scales)
    )
}

pub fn add_up(d: &dyn Device, numbers: &Buffer<f64>, sum: &Buffer<f64>) -> Result<()> {
    launch!(d, "add_up", [1, 1, 1], numbers.address(), numbers.len() as u32, sum.at(0))
}

/// The gradient of a bias; `parts` has room for some partial sums.
pub fn bias_gradient(d: &dyn Device, gz: &Buffer<f32>, parts: &Buffer<f64>, out: &Buffer<f64>) -> Result<()> {
    let channels = out.len();
    let (pixels, count) = (gz.len() / channels, parts.len() / channels);
    assert_eq!((gz.len(), parts.len()), (pixels * channels, count * channels), "the gradient of a bias");
    let grid = [channels.div_ceil(32) as u32, count as u32, 1];
    launch!(d, "bias_gradient", grid, gz.address(), pixels as u32, channels as u32, parts.address())?;
    launch!(d, "add_bias_parts", blocks(channels), parts.address(), count as u32, channels as u32, out.address())
}

/// Channels-last images from images (C, pixels), or the other way round: transposes `batch` matrices. `to` takes them from
/// element `first` on.
pub fn transpose(
    d: &dyn Device,
    from: &Buffer<f32>,
    to: &Buffer<f32>,
    [batch, rows, columns]: [usize; 3],
    first: usize,
) -> Result<()> {
    let len = batch * rows * columns;
    assert!(len <= from.len() && first + len <= to.len(), "matrices");
    let grid = [columns.div_ceil(32) as u32, rows.div_ceil(32) as u32, batch as u32];
    launch!(d, "transpose", grid, from.address(), to.at(first), rows as u32, columns as u32)
}

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
