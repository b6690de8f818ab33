//! Sees values whose channels are so unequal that a grid for the whole tensor loses the small ones.

use super::{Session, SitePlan};
use crate::cache::CachedValues;
use crate::error::Result;
use crate::graph::{channel_read, NodeId, Op, SiteKind};
use crate::grid::Granularity;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;

/// Images that are looked at.
const IMAGES: usize = 16;
/// A channel is small if its largest magnitude is less than this number of steps of the grid.
const STEPS: f32 = 2.0;
/// Share of what later layers read from a value that small channels may carry.
const SHARE: f64 = 0.2;
/// The preparation that scales channels.
const EQUALIZE: &str = "equalize";
/// Share of the values that may be like this.
const VALUES: f64 = 0.15;

impl Session<'_> {
    /// Whether many values of the float network have small channels that carry much of what later layers read, but
    /// that a grid of so few bits for the whole tensor does not resolve: a text for the user that names the remedy. Reading
    /// layers weigh a channel by the squares of its values and weights.
    ///
    /// # Errors
    /// The network cannot compute the images.
    pub fn uneven_channels(&self, model: &QuantModel, images: &CachedValues) -> Result<Option<String>> {
        let plans = self.plans_of(model.graph())?;
        let per_tensor = |plan: &&SitePlan| {
            plan.site.kind == SiteKind::Activation && plan.spec.granularity == Granularity::PerTensor
        };
        let plans: Vec<&SitePlan> = plans.iter().filter(per_tensor).collect();
        let graph = model.graph();
        let nodes: Vec<NodeId> = plans.iter().map(|plan| plan.site.node).collect();
        let part = graph.subgraph_with_outputs(graph.nodes().skip(1).map(|(id, _)| id), nodes);
        let sample = images.first(IMAGES)?;
        let values = Inference::new(model, Precision::Float, part)?.run(std::slice::from_ref(&sample))?;
        let mut shares = Vec::new();
        for (plan, value) in plans.iter().zip(&values) {
            let channels = channels_of(value)?;
            let (low, high) = channels.iter().fold((0.0_f32, 0.0_f32), |(l, h), c| (l.min(c.low), h.max(c.high)));
            let step = (high - low) / (plan.spec.qmax() - plan.spec.qmin());
            let weights = read_weights(model, plan.site.node, channels.len())?;
            let signal = |small_only: bool| -> f64 {
                let counted = channels.iter().zip(&weights);
                let counted = counted.filter(|(c, _)| !small_only || c.high.max(-c.low) < STEPS * step);
                counted.map(|(c, weight)| c.energy * weight).sum()
            };
            let all = signal(false);
            shares.push((if all > 0.0 { signal(true) / all } else { 0.0 }, plan));
        }
        let lost: Vec<&(f64, &&SitePlan)> = shares.iter().filter(|(share, _)| *share > SHARE).collect();
        let Some((share, worst)) = lost.iter().max_by(|a, b| a.0.total_cmp(&b.0)) else { return Ok(None) };
        if (lost.len() as f64) <= VALUES * shares.len() as f64 {
            return Ok(None);
        }
        let remedy = if self.recipe().prepare.iter().any(|preparation| preparation.name == EQUALIZE) {
            "`equalize` has scaled the channels as far as it does; more bits for such values resolve more \
             (`quant.overrides`)"
        } else {
            "`--set 'prepare=[equalize]'` scales the channels so that they are resolved; the float network stays the same"
        };
        Ok(Some(format!(
            "in {} of {} quantized values, channels smaller than {STEPS} steps of the grid carry more than {:.0} % of what \
             the next layers read ({:.0} % in '{}', at {} bits): they will be lost. {remedy}",
            lost.len(),
            shares.len(),
            100.0 * SHARE,
            100.0 * share,
            worst.site.name,
            worst.spec.bits
        )))
    }
}

/// The range and the mean square of a channel.
struct Channel {
    low: f32,
    high: f32,
    energy: f64,
}

fn channels_of(value: &Tensor) -> Result<Vec<Channel>> {
    let (images, channels) = (value.dim(0)?, value.dim(1)?);
    let pixels = (value.elem_count() / (images * channels)).max(1);
    let mut all: Vec<Channel> = (0..channels).map(|_| Channel { low: 0.0, high: 0.0, energy: 0.0 }).collect();
    host_values(value, |values| {
        for (i, plane) in values.chunks_exact(pixels).enumerate() {
            let channel = &mut all[i % channels];
            for v in plane {
                (channel.low, channel.high) = (channel.low.min(*v), channel.high.max(*v));
                channel.energy += f64::from(v * v);
            }
        }
    })?;
    Ok(all)
}

/// For each channel of a value the sum of the squares of the weights that read it; pooling and flattening lie between.
fn read_weights(model: &QuantModel, value: NodeId, channels: usize) -> Result<Vec<f64>> {
    let graph = model.graph();
    let mut sums = vec![0.0; channels];
    for reader in graph.consumers(value) {
        let node = graph.node(reader);
        match &node.op {
            Op::Conv2d { .. } | Op::Linear { .. } => {
                let (weight, groups) = (model.weight(reader)?, node.op.groups());
                // A flattened image has several features for each channel.
                let each = graph.node(node.inputs[0]).shape[0] / channels.max(1);
                host_values(weight, |values| {
                    for (i, w) in values.iter().enumerate() {
                        sums[channel_read(i, weight.dims(), groups) / each.max(1)] += f64::from(w * w);
                    }
                })?;
            }
            Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Pad(_)
            | Op::Flatten
            | Op::UpsampleNearest { .. } => {
                for (sum, own) in sums.iter_mut().zip(read_weights(model, reader, channels)?) {
                    *sum += own;
                }
            }
            // Additions, products, activation functions and whatever else is read elsewhere.
            Op::Input
            | Op::BatchNorm { .. }
            | Op::Activation(_)
            | Op::Clip
            | Op::Add
            | Op::Mul
            | Op::Concat
            | Op::Slice { .. }
            | Op::ShuffleChannels { .. }
            | Op::LayerNorm { .. }
            | Op::Custom(_) => {}
        }
    }
    Ok(sums)
}
