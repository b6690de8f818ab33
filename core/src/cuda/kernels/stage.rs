//! Kernels of `stage.cu`: what stands between the convolutions of a unit that learns.

use super::super::abi::{name, Choices, Draw, Operands, Rows, Site, Sums};
use super::super::device::{Buffer, Device};
use super::{blocks, launch, names};
use crate::error::Result;
use qdrop_kernels::nhwc::stage::Function;

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
    const NAMES: [&str; 9] = names!("forward");
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
    const NAMES: [&str; 9] = names!("backward");
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
    const NAMES: [&str; 9] = names!("end");
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
