//! Kernels of `learn.cu`: updates of what a unit learns.

use super::super::abi::{Rates, Regularizer, Site, Sums, WeightGrid};
use super::super::device::{Buffer, Device};
use super::{blocks, launch, THREADS};
use crate::error::Result;

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

/// Keeps the loss of the last site and the regularizer of a step among `losses`, at the pair that `count` counts.
pub fn keep_losses(
    d: &dyn Device,
    totals: &Buffer<Sums>,
    term: &Buffer<f64>,
    losses: &Buffer<f64>,
    count: &Buffer<u32>,
) -> Result<()> {
    let (last, most) = ((totals.len() - 1) as u32, (losses.len() / 2) as u32);
    launch!(d, "keep_losses", [1, 1, 1], totals.address(), last, term.at(0), losses.address(), count.at(0), most)
}

/// The gradient of a bias; `parts` has room for some partial sums.
pub fn bias_gradient(d: &dyn Device, gz: &Buffer<f32>, parts: &Buffer<f64>, out: &Buffer<f64>) -> Result<()> {
    let channels = out.len();
    let (pixels, count) = (gz.len() / channels, parts.len() / channels);
    assert_eq!((gz.len(), parts.len()), (pixels * channels, count * channels), "the gradient of a bias");
    let grid = [channels.div_ceil(32) as u32, count as u32, 1];
    launch!(d, "bias_gradient", grid, gz.address(), pixels as u32, channels as u32, parts.address())?;
    add_rows(d, parts, out)
}

/// Adds rows, each of which has a number for each number of `out`.
pub fn add_rows(d: &dyn Device, rows: &Buffer<f64>, out: &Buffer<f64>) -> Result<()> {
    let (columns, count) = (out.len(), rows.len() / out.len());
    assert_eq!(rows.len(), count * columns, "rows of numbers");
    launch!(d, "add_rows", blocks(columns), rows.address(), count as u32, columns as u32, out.address())
}
