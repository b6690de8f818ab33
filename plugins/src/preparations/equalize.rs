//! Equalization: channels of a value that are much smaller than its largest ones are scaled up, so that a grid for the
//! whole tensor resolves them, and scaled down again by the weights that read them (Nagel et al., arXiv 1906.04721, section
//! 4.1). Its exponent shares a range between a value and the weights that read it (Xiao et al., arXiv 2211.10438, equation
//! 4). The network computes the same: a ReLU6 becomes a clip with a bound for each channel.

use super::percentile::ChannelPercentiles;
use qdrop_core::graph::SiteKind;
use qdrop_core::ops::host_values;
use qdrop_core::prelude::*;
use std::collections::BTreeMap;

/// Parameters: `prepare: [{name: equalize, params: {exponent: 0.5}}]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EqualizeParams {
    /// Percentile of the magnitudes that is the range of a channel.
    percentile: f64,
    /// Images on which ranges are measured.
    images: usize,
    /// Which part of the differences between channels is removed: factors are `(range / largest range) ^ exponent`. Where
    /// only depthwise convolutions read a value, each channel's weight has a scale of its own and all differences are
    /// removed.
    exponent: f64,
    /// Largest ratio between two factors.
    limit: f64,
}

impl Default for EqualizeParams {
    fn default() -> Self {
        Self { percentile: 99.99, images: 128, exponent: 0.5, limit: 64.0 }
    }
}

struct Equalize(EqualizeParams);

/// Whether each channel of the group's values is read by weights that no other channel shares a scale with.
fn only_depthwise(graph: &Graph, group: &ChannelGroup) -> bool {
    group.consumers.iter().all(|id| {
        let node = graph.node(*id);
        let inputs = node.inputs.first().map(|input| graph.node(*input).shape[0]);
        matches!(&node.op, Op::Conv2d { geometry, .. } if Some(geometry.groups) == inputs)
    })
}

/// A name for the group: its first quantized value, or else its first one.
fn name(graph: &Graph, group: &ChannelGroup) -> String {
    let more = group.producers.len().saturating_sub(1);
    let first = group.producers.first().or(group.values.first()).map_or("", |id| &graph.node(*id).name);
    match more {
        0 => first.into(),
        n => format!("{first} and {n} more"),
    }
}

impl Equalize {
    fn exponent(&self, graph: &Graph, group: &ChannelGroup) -> f64 {
        if only_depthwise(graph, group) {
            1.0
        } else {
            self.0.exponent
        }
    }

    /// The range of each factor of each group: the largest of its channels, in quantized values.
    fn ranges(&self, network: &Preparing<'_>, groups: &[ChannelGroup]) -> Result<Vec<Vec<f64>>> {
        let graph = network.model.graph();
        let images = self.0.images.min(network.image_count());
        let sites: Vec<NodeId> =
            network.sites().iter().filter(|site| site.kind == SiteKind::Activation).map(|site| site.node).collect();
        // Values that are not quantized count only where none is.
        let observed: Vec<Vec<NodeId>> = groups
            .iter()
            .map(|group| {
                let quantized: Vec<NodeId> = group.values.iter().copied().filter(|id| sites.contains(id)).collect();
                if quantized.is_empty() { group.values.clone() } else { quantized }
            })
            .collect();
        let mut percentiles: BTreeMap<NodeId, (usize, ChannelPercentiles)> = BTreeMap::new();
        for id in observed.iter().flatten() {
            let shape = &graph.node(*id).shape;
            let pixels = shape[1..].iter().product::<usize>();
            let all = ChannelPercentiles::new(shape[0], images * pixels, self.0.percentile);
            percentiles.insert(*id, (pixels, all));
        }
        let nodes: Vec<NodeId> = percentiles.keys().copied().collect();
        network.values(&nodes, images, |values| {
            for ((pixels, all), value) in percentiles.values_mut().zip(values) {
                host_values(value, |v| all.add(v, *pixels))?;
            }
            Ok(())
        })?;
        let of_group = |(group, observed): (&ChannelGroup, &Vec<NodeId>)| {
            let mut ranges = vec![0.0_f64; group.factors];
            for id in observed {
                let Some((_, all)) = percentiles.get(id) else { continue };
                for (factor, range) in group.channels(*id).iter().zip(all.values()) {
                    if let Some(f) = factor {
                        ranges[*f] = ranges[*f].max(f64::from(range));
                    }
                }
            }
            ranges
        };
        Ok(groups.iter().zip(&observed).map(of_group).collect())
    }
}

impl Preparation for Equalize {
    /// Only rounding errors.
    fn tolerance(&self) -> f64 {
        1e-3
    }

    /// A ReLU6 whose channels are scaled becomes a clip.
    fn rewrite(&self, model: &mut QuantModel) -> Result<()> {
        clip_scalable_relu6(model)
    }

    fn outline(&self, graph: &Graph) -> Result<Vec<String>> {
        let line = |group: &ChannelGroup| {
            let (channels, exponent) = (group.factors, self.exponent(graph, group));
            format!("{}: {channels} channels, exponent {exponent}", name(graph, group))
        };
        Ok(channel_groups(graph).iter().map(line).collect())
    }

    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>> {
        let groups = channel_groups(network.model.graph());
        let ranges = self.ranges(network, &groups)?;
        let mut changes = Vec::new();
        for (group, ranges) in groups.iter().zip(ranges) {
            let largest = ranges.iter().copied().fold(0.0, f64::max);
            if largest == 0.0 {
                continue;
            }
            let exponent = self.exponent(network.model.graph(), group);
            let factors: Vec<f64> =
                ranges.iter().map(|range| (range / largest).powf(exponent).max(1.0 / self.0.limit)).collect();
            scale_channels(network.model, group, &factors)?;
            let least = factors.iter().copied().fold(1.0, f64::min);
            let what = format!("{} channels divided by {least:.3} to 1, exponent {exponent}", group.factors);
            changes.push(Change { part: name(network.model.graph(), group), what });
        }
        Ok(changes)
    }
}

register_preparation! {
    name: "equalize", aliases: [], summary: "scales channels so that a per-tensor grid resolves all of them; computes the same",
    build: |params| {
        let parsed: EqualizeParams = params.parse()?;
        let checks = [
            ("percentile", parsed.percentile > 0.0 && parsed.percentile <= 100.0, "is a percentage above 0"),
            ("images", parsed.images >= 1, "must be at least 1"),
            ("exponent", (0.0..=1.0).contains(&parsed.exponent), "lies between 0 and 1"),
            ("limit", parsed.limit >= 1.0 && parsed.limit.is_finite(), "must be at least 1"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((key, _, message)) => Err(params.error(key, message)),
            None => Ok(Box::new(Equalize(parsed))),
        }
    }
}
