//! Layers as a runtime computes them in integers.

use super::{QuantModel, QuantSite};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::grid::{Granularity, QParams};
use crate::ops::host_values;
use candle_core::Tensor;
use std::fmt;

/// Largest size of an integer that stands for a weight: they are signed bytes.
const LARGEST: u32 = 127;
/// Largest sum of two products of values and weights. Processors without instructions for dot products of bytes add pairs
/// of products in 16 bits.
const LARGEST_PAIR: u32 = i16::MAX as u32;
/// How far from its grid a weight may lie, as a share of the scale: not every quantizer rounds the product in the same way.
const OFF_GRID: f32 = 1e-3;
/// Integers of the bias of a channel whose weights are all zero: its grid is free, and these have 22 bits.
const FREE_BITS: i32 = 22;

/// A weight as integers, with its grid.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightCodes {
    /// Integers counted from the grid's smallest one, so from 0 to `2^bits - 1`, in the weight's order.
    pub codes: Vec<u16>,
    /// Shape of the weight.
    pub shape: Vec<usize>,
    /// Bit width, 1 to 16.
    pub bits: u32,
    /// One scale for each output channel, or one for all.
    pub scale: Vec<f32>,
    /// The code that stands for zero, for each scale. It may lie outside of the codes.
    pub zero_point: Vec<i32>,
}

impl WeightCodes {
    /// The codes of a weight that lies on the grid of its quantizer.
    fn of(site: &QuantSite, weight: &Tensor) -> Result<Self> {
        let spec = *site.quantizer.spec();
        let params = site.quantizer.qparams()?;
        let wrong = |message: String| Error::graph(format!("{}.weight", site.name), message);
        if spec.granularity != Granularity::PerTensor && spec.granularity != Granularity::PerAxis(0) {
            return Err(wrong("is quantized along another axis than that of its output channels".into()));
        }
        let channels = spec.granularity.channels(weight.dims())?;
        if params.scale.len() != channels.count || params.zero_point.len() != channels.count {
            return Err(wrong(format!("has {} scales for {} channels", params.scale.len(), channels.count)));
        }
        let hard = site.quantizer.fake_quantize(weight)?;
        let codes = host_values(&hard, |values| {
            let code = |(i, v): (usize, &f32)| {
                let c = i / channels.inner % channels.count;
                let (scale, zero_point) = (params.scale[c], params.zero_point[c]);
                let code = spec.code(*v, scale, zero_point)?;
                let off = (spec.dequantize(code, scale, zero_point) - v).abs() > OFF_GRID * scale;
                (!off).then_some(code)
            };
            values.iter().enumerate().map(code).collect::<Option<Vec<u16>>>()
        })?;
        let codes = codes.ok_or_else(|| wrong("does not lie on the grid of its quantizer".into()))?;
        let zero_point = params.zero_point.iter().map(|z| (z - spec.qmin()) as i32).collect();
        Ok(Self { codes, shape: weight.dims().to_vec(), bits: spec.bits, scale: params.scale, zero_point })
    }

    /// Elements of one output channel.
    pub fn row(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>().max(1)
    }

    /// The integers of output channel `channel`, with 0 for zero.
    pub fn integers(&self, channel: usize) -> impl Iterator<Item = i32> + '_ {
        let zero = self.zero_point[channel.min(self.zero_point.len() - 1)];
        let row = self.row();
        self.codes.iter().skip(channel * row).take(row).map(move |code| i32::from(*code) - zero)
    }
}

/// The grid of a quantizer whose codes are bytes: at most 8 bits, one scale, and zero is a code of one byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ByteGrid {
    /// Distance between two points.
    pub scale: f32,
    /// The code of zero. It may lie beyond the largest one.
    pub zero_point: u8,
    /// The largest code; the smallest one is 0.
    pub largest: u8,
}

impl QuantSite {
    /// The quantizer's grid as bytes; `None` if bytes cannot hold its codes, or the quantizer does not
    /// [say](crate::quantizer::Quantizer::kernel) that it rounds to the nearest point of its grid.
    ///
    /// # Errors
    /// The quantizer has no range.
    pub fn byte_grid(&self) -> Result<Option<ByteGrid>> {
        let spec = *self.quantizer.spec();
        if spec.granularity != Granularity::PerTensor || spec.bits > 8 || self.quantizer.kernel()?.is_none() {
            return Ok(None);
        }
        let QParams { scale, zero_point } = self.quantizer.qparams()?;
        let ([scale], [zero_point]) = (scale.as_slice(), zero_point.as_slice()) else { return Ok(None) };
        let (zero, largest) = (zero_point - spec.qmin(), (spec.qmax() - spec.qmin()) as u8);
        let is_byte = (0.0..=255.0).contains(&zero) && zero.fract() == 0.0;
        Ok(is_byte.then_some(ByteGrid { scale: *scale, zero_point: zero as u8, largest }))
    }
}

/// A layer as a runtime computes it in integers: 8-bit values times 8-bit weights, summed with the bias in 32 bits.
///
/// The bias must be a multiple of the product of both scales, so it would be rounded to a coarse grid where weights have few
/// bits. Weights of few bits leave room in a byte: all of them times [`factor`](Self::factor), with scales as much smaller,
/// are the same weights with a finer grid for the bias.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerLayer {
    /// The node whose value, on the grid of its quantizer, the layer reads; nothing but
    /// operations that [keep the grid](crate::graph::Op::keeps_grid) lies between.
    pub source: NodeId,
    /// What the integers of the weight are multiplied by: a power of two.
    pub factor: u32,
    /// Scale of the multiplied weight, one for each output channel.
    pub weight_scale: Vec<f32>,
    /// Scale of the bias, one for each output channel: that of the input times that of the weight.
    pub bias_scale: Vec<f32>,
    /// The bias as multiples of its scale, if there is one.
    pub bias: Option<Vec<i32>>,
}

/// Why a layer cannot be computed in integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotInteger {
    /// The weight is not quantized.
    FloatWeight,
    /// The value that the layer reads lies on no grid of at most 8 bits with one scale.
    Input,
    /// The weight has more than 8 bits, or 8 bits and a zero point that moves it beyond signed bytes.
    Weight,
    /// The bias is so large, or the scales are so small, that a 32-bit integer cannot hold it.
    Bias,
}

impl fmt::Display for NotInteger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FloatWeight => "its weight is not quantized",
            Self::Input => "it reads a value that lies on no 8-bit grid with one scale",
            Self::Weight => "its weight minus the zero point does not fit a signed byte (`symmetric: true` does)",
            Self::Bias => "its bias does not fit 32 bits with scales that are so small",
        })
    }
}

impl QuantModel {
    /// The weight of a node as integers; `None` if it is not quantized.
    ///
    /// # Errors
    /// The weight does not lie on its quantizer's grid, or the grid is not along the output channels.
    pub fn weight_codes(&self, node: NodeId) -> Result<Option<WeightCodes>> {
        self.weight_site(node).map(|site| WeightCodes::of(site, self.weight(node)?)).transpose()
    }

    /// The node that computes the value of `node`: `node` itself, or one before operations that only move values and add zeros,
    /// without a quantizer on the way.
    pub(super) fn moved_from(&self, mut node: NodeId) -> NodeId {
        while self.activation_site(node).is_none() {
            let current = self.graph().node(node);
            let Some(input) = current.inputs.first().filter(|_| current.op.keeps_grid()) else { break };
            node = *input;
        }
        node
    }

    /// The node whose quantizer's grid the value of `node` lies on: `node` itself, or one before operations that only move
    /// values and add zeros. `None`: it lies on no grid.
    pub fn grid_source(&self, node: NodeId) -> Option<NodeId> {
        Some(self.moved_from(node)).filter(|source| self.activation_site(*source).is_some())
    }

    /// The node whose quantizer gave the value that `node` reads, and its grid, if bytes hold its codes.
    fn integer_input(&self, node: NodeId) -> Result<Option<(NodeId, ByteGrid)>> {
        let source = self.graph().node(node).inputs.first().and_then(|input| self.grid_source(*input));
        let Some((source, site)) = source.and_then(|source| Some((source, self.activation_site(source)?))) else {
            return Ok(None);
        };
        Ok(site.byte_grid()?.map(|grid| (source, grid)))
    }

    /// A layer as a runtime computes it in integers, or why it cannot.
    ///
    /// # Errors
    /// Those of [`weight_codes`](Self::weight_codes).
    pub fn integer_layer(&self, node: NodeId) -> Result<std::result::Result<IntegerLayer, NotInteger>> {
        let Some(weight) = self.weight_codes(node)? else { return Ok(Err(NotInteger::FloatWeight)) };
        let Some((source, ByteGrid { scale: input_scale, largest: largest_value, .. })) = self.integer_input(node)?
        else {
            return Ok(Err(NotInteger::Input));
        };
        let largest_value = u32::from(largest_value);
        let channels = weight.shape.first().copied().unwrap_or_default();
        let sizes = |c: usize| weight.integers(c).map(i32::unsigned_abs);
        let largest = (0..channels).flat_map(sizes).max().unwrap_or_default();
        let sums: Vec<u64> = (0..channels).map(|c| sizes(c).map(u64::from).sum()).collect();
        let fits = (0..channels).all(|c| weight.integers(c).all(|w| i8::try_from(w).is_ok()));
        if !fits || weight.bits > 8 {
            return Ok(Err(NotInteger::Weight));
        }
        let room = (LARGEST / largest.max(1)).min(LARGEST_PAIR / (2 * largest_value * largest.max(1))).max(1);
        let bias = match self.bias(node) {
            Some(bias) => Some(host_values(bias, <[f32]>::to_vec)?),
            None => None,
        };
        // The largest power of two for which every bias fits.
        let factors = std::iter::successors(Some(1 << room.ilog2()), |factor| (*factor > 1).then_some(factor / 2));
        let layer = factors.into_iter().find_map(|factor| {
            let input = (input_scale, largest_value);
            let (weight_scale, bias_scale, bias) = scaled(&weight, &sums, bias.as_deref(), input, factor)?;
            Some(IntegerLayer { source, factor, weight_scale, bias_scale, bias })
        });
        Ok(layer.ok_or(NotInteger::Bias))
    }

    /// Rounds the biases of all layers that a runtime can compute in integers to the grids that it has for them, so that
    /// the network computes what it computes there. This is the last step of quantization.
    ///
    /// # Errors
    /// A quantizer has no range, or an operation of candle fails.
    pub fn round_biases(&mut self) -> Result<()> {
        let layers: Vec<NodeId> =
            self.graph().nodes().filter(|(_, node)| node.op.has_weight()).map(|(id, _)| id).collect();
        for id in layers {
            let layer = match self.integer_layer(id) {
                // The quantizer of a plugin may leave a weight beside its grid; no runtime computes it in integers.
                Err(Error::Graph { .. }) => continue,
                layer => layer?,
            };
            let Ok(IntegerLayer { bias_scale, bias: Some(bias), .. }) = layer else { continue };
            let values: Vec<f32> = bias.iter().zip(&bias_scale).map(|(b, scale)| *b as f32 * scale).collect();
            let count = values.len();
            self.set_parameter(&self.bias_name(id), Tensor::from_vec(values, count, self.device())?)?;
        }
        Ok(())
    }
}

/// Scales of a weight and of a bias, and the integers of the bias.
type Scaled = (Vec<f32>, Vec<f32>, Option<Vec<i32>>);

/// The scales of a layer whose weight is multiplied by `factor`, and its bias as integers; `None` if one of them does not fit.
/// `sums` are those of the sizes of each channel's integers; the input is given as the scale of values and the largest one.
fn scaled(
    weight: &WeightCodes,
    sums: &[u64],
    bias: Option<&[f32]>,
    (input_scale, largest_value): (f32, u32),
    factor: u32,
) -> Option<Scaled> {
    let (mut weight_scales, mut bias_scales, mut integers) = (Vec::new(), Vec::new(), Vec::new());
    for (c, sum) in sums.iter().enumerate() {
        let mut weight_scale = weight.scale[c.min(weight.scale.len() - 1)] / factor as f32;
        let mut bias_scale = input_scale * weight_scale;
        let value = bias.map_or(0.0, |bias| bias[c]);
        if *sum == 0 && value != 0.0 {
            // A power of two, so that rounding again changes nothing.
            bias_scale = 2.0_f32.powi(value.abs().log2().floor() as i32 - FREE_BITS);
            weight_scale = bias_scale / input_scale;
        }
        if !(bias_scale.is_normal() && weight_scale.is_normal() && value.is_finite()) {
            return None;
        }
        let integer = (f64::from(value) / f64::from(bias_scale)).round_ties_even();
        let products = *sum as f64 * f64::from(factor) * f64::from(largest_value);
        if integer.abs() + products > f64::from(i32::MAX) {
            return None;
        }
        weight_scales.push(weight_scale);
        bias_scales.push(bias_scale);
        integers.push(integer as i32);
    }
    Some((weight_scales, bias_scales, bias.map(|_| integers)))
}
