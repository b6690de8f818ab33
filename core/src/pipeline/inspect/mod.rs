//! What quantization did at each site of a part of the network: ranges, distributions, and noise.

mod tally;
mod weight;

use crate::cache::CachedValues;
use crate::error::Result;
use crate::graph::{SiteKind, Subgraph};
use crate::grid::{QParams, QuantSpec};
use crate::model::{saved_grid, Precision, QuantModel};
use crate::ops::host_values;
use crate::report::{Clipping, Shares, SiteReport};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;
use tally::Tally;

/// Bins of a distribution.
const BINS: usize = 64;
/// How much wider than the clipping ranges the distribution of an activation is drawn, at each side.
const MARGIN: f64 = 0.1;

/// Elements of values that are looked at together.
const INSPECTED_ELEMENTS: usize = 8 << 20;
/// The most samples that are looked at.
const INSPECTED_SAMPLES: usize = 32;

/// What quantization did at the sites of a part, on the first samples, as many as fit into little memory: see [`inspect`]. `inputs` are
/// the values that the part reads in the float and in the quantized network, in the part's order.
///
/// # Errors
/// A quantizer has no range, cached values cannot be read, or an operation fails.
pub fn sites(
    (float, quantized): (&QuantModel, &QuantModel),
    part: &Subgraph,
    before: &BTreeMap<String, Tensor>,
    inputs: [&[Arc<CachedValues>]; 2],
) -> Result<Vec<SiteReport>> {
    let sizes = part.nodes().iter().map(|id| float.graph().node(*id).shape.iter().product::<usize>());
    let largest = sizes.chain(inputs.iter().flat_map(|all| all.iter()).map(|all| all.largest())).max().unwrap_or(1);
    let count = (INSPECTED_ELEMENTS / largest.max(1)).clamp(1, INSPECTED_SAMPLES);
    let [full, own] = inputs.map(|all| all.iter().map(|all| all.first(count)).collect::<Result<Vec<_>>>());
    inspect((float, quantized), part, before, [&full?, &own?])
}

/// Looks at each site of `part` of the quantized network, after its learning. `before` are scales and zero points before it, by the
/// names of [`QuantModel::grids`]. `inputs` are the values that the part reads in the float and in the quantized network, each of
/// shape (N, ...), in the part's order.
fn inspect(
    (float, quantized): (&QuantModel, &QuantModel),
    part: &Subgraph,
    before: &BTreeMap<String, Tensor>,
    [full, own]: [&[Tensor]; 2],
) -> Result<Vec<SiteReport>> {
    let mut reports = Vec::new();
    for id in part.nodes() {
        if let Some(site) = quantized.weight_site(*id) {
            let began = saved_grid(before, &site.name, SiteKind::Weight.name())?;
            let ended = (*site.quantizer.spec(), site.quantizer.qparams()?);
            let rounded = site.quantizer.fake_quantize(quantized.weight(*id)?)?.detach();
            reports.push((*id, weight::report(&site.name, ended, &began, [float.weight(*id)?, &rounded])?));
        }
    }
    // Both networks pass together, the float one in the first half of each batch.
    let both = full.iter().zip(own).map(|(full, own)| Ok(Tensor::cat(&[full, own], 0)?));
    let both: Vec<Tensor> = both.collect::<Result<_>>()?;
    let count = full.first().map_or(Ok(0), |input| input.dim(0))?;
    let halves = |value: &Tensor| -> Result<_> { Ok((value.narrow(0, 0, count)?, value.narrow(0, count, count)?)) };
    part.run(quantized.graph(), &both, |id, read| {
        let read: Vec<(Tensor, Tensor)> = read.iter().map(|value| halves(value)).collect::<Result<_>>()?;
        let (full, own): (Vec<&Tensor>, Vec<&Tensor>) =
            (read.iter().map(|r| &r.0).collect(), read.iter().map(|r| &r.1).collect());
        let full = float.raw_value(id, &full, Precision::Float)?;
        let mut own = quantized.raw_value(id, &own, Precision::Quantized)?;
        if let Some(site) = quantized.activation_site(id) {
            own = site.quantizer.fake_quantize(&own)?.detach();
            let began = saved_grid(before, &site.name, SiteKind::Activation.name())?;
            let ended = (*site.quantizer.spec(), site.quantizer.qparams()?);
            let alone = site.quantizer.fake_quantize(&full)?.detach();
            reports.push((id, activation(&site.name, ended, &began, [&full, &alone, &own])?));
        }
        Ok(Tensor::cat(&[full, own], 0)?)
    })?;
    // In the order of execution, the weight of a layer before its value.
    reports.sort_by_key(|(id, _)| id.index());
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// The values that the grid covers, over all channels.
fn clipping(spec: &QuantSpec, params: &QParams) -> Clipping {
    let ends = params.scale.iter().zip(&params.zero_point).map(|(scale, zero_point)| {
        let [low, high] = [spec.qmin(), spec.qmax()].map(|q| f64::from((q - zero_point) * scale));
        Clipping { low, high }
    });
    let wider = |a: Clipping, b: Clipping| Clipping { low: a.low.min(b.low), high: a.high.max(b.high) };
    ends.reduce(wider).unwrap_or_default()
}

/// Looks at a value in the float network, the same quantized, and the value in the quantized network.
fn activation(
    name: &str,
    (spec, params): (QuantSpec, QParams),
    began: &QParams,
    [full, alone, own]: [&Tensor; 3],
) -> Result<SiteReport> {
    let (before, after) = (clipping(&spec, began), clipping(&spec, &params));
    let (low, high) = (before.low.min(after.low), before.high.max(after.high));
    let margin = MARGIN * (high - low);
    let mut shares = Shares { low: low - margin, high: high + margin, shares: vec![0.0; BINS] };
    let (images, channels) = (full.dim(0)?, full.dim(1)?);
    let pixels = (full.elem_count() / (images * channels).max(1)).max(1);
    let of_channel = spec.granularity.channels(full.dims())?;
    let noise = |other: &Tensor| -> Result<Option<f64>> {
        Ok(host_values(full, |full| host_values(other, |other| Tally::of(full, other)))??.decibels())
    };
    let (alone_noise, own_noise) = (noise(alone)?, noise(own)?);
    let (mut clipped, mut seen) = (0_usize, vec![Seen::default(); channels]);
    host_values(full, |values| {
        host_values(alone, |alone| {
            for (i, (value, rounded)) in values.iter().zip(alone).enumerate() {
                shares.add(f64::from(*value));
                let c = i / of_channel.inner % of_channel.count;
                let (scale, zero_point) = (params.scale.get(c), params.zero_point.get(c));
                if let (Some(scale), Some(zero_point)) = (scale, zero_point) {
                    let [low, high] = [spec.qmin() - 0.5, spec.qmax() + 0.5].map(|q| (q - zero_point) * scale);
                    clipped += usize::from(*value < low || *value > high);
                }
                seen[i / pixels % channels].see(*value, *rounded);
            }
        })
    })??;
    let count = full.elem_count().max(1) as f64;
    shares.divide(count);
    Ok(SiteReport {
        name: name.into(),
        kind: SiteKind::Activation,
        bits: spec.bits,
        before,
        after,
        float: shares,
        quantized: None,
        grid: Vec::new(),
        noise_alone: alone_noise,
        noise_accumulated: own_noise,
        moved: None,
        clipped: clipped as f64 / count,
        channels,
        dead_channels: seen.iter().filter(|channel| channel.is_dead()).count(),
        lost_channels: seen.iter().filter(|channel| channel.is_lost()).count(),
    })
}

/// Whether values of a channel differ, before and after rounding.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    first: Option<(f32, f32)>,
    differs: bool,
    rounded_differs: bool,
}

impl Seen {
    fn see(&mut self, value: f32, rounded: f32) {
        let (first, first_rounded) = *self.first.get_or_insert((value, rounded));
        self.differs |= value != first;
        self.rounded_differs |= rounded != first_rounded;
    }

    /// Every image has the same value everywhere.
    fn is_dead(&self) -> bool {
        !self.differs
    }

    /// The values differ, but all of them are rounded to one point of the grid.
    fn is_lost(&self) -> bool {
        self.differs && !self.rounded_differs
    }
}
