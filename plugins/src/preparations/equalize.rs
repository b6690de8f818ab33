//! Equalization: channels of a value that are much smaller than its largest ones are scaled up, so that a grid for the
//! whole tensor resolves them, and scaled down again by the weights that read them (Nagel et al., arXiv 1906.04721, section
//! 4.1). Its exponent shares a range between a value and the weights that read it (Xiao et al., arXiv 2211.10438, equation
//! 4). The network computes the same: a ReLU6 becomes a clip with a bound for each channel.

use super::columns::{channels, is_depthwise, Channel};
use super::percentile::ChannelPercentiles;
use qdrop_core::graph::SiteKind;
use qdrop_core::ops::host_values;
use qdrop_core::prelude::*;
use std::collections::BTreeMap;

/// Exponents that are tried.
const CANDIDATES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Images on which they are compared.
const MEASURED: usize = 32;

/// Parameters: `prepare: [{name: equalize, params: {exponent: 0.5}}]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EqualizeParams {
    /// Percentile of the magnitudes that is the range of a channel.
    percentile: f64,
    /// Images on which ranges are measured.
    images: usize,
    /// What is made even: the channels of a value (1), the columns of the weights that read it (0), or both in part: factors
    /// are `range^exponent / size^(1 - exponent)`, where the size is that of a channel's weights. `auto` measures for each
    /// group of channels which of several exponents gives the layers that read it the smallest error. Where only depthwise
    /// convolutions read a value, each channel's weight has a scale of its own and the channels are made even.
    exponent: Exponent,
    /// Largest ratio between two factors.
    limit: f64,
}

impl Default for EqualizeParams {
    fn default() -> Self {
        Self { percentile: 99.99, images: 128, exponent: Exponent::Auto, limit: 64.0 }
    }
}

/// How much of the differences between channels is removed.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Exponent {
    /// Measured for each group.
    Auto,
    /// The same for all groups.
    #[serde(untagged)]
    Fixed(f64),
}

struct Equalize(EqualizeParams);

/// Whether each channel of the group's values is read by weights that no other channel shares a scale with.
fn only_depthwise(graph: &Graph, group: &ChannelGroup) -> bool {
    group.consumers.iter().all(|layer| is_depthwise(graph, *layer))
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
    /// The exponent of a group; `None` if it is to be measured.
    fn exponent(&self, graph: &Graph, group: &ChannelGroup) -> Option<f64> {
        match self.0.exponent {
            _ if only_depthwise(graph, group) => Some(1.0),
            Exponent::Fixed(exponent) => Some(exponent),
            Exponent::Auto => None,
        }
    }

    /// The factors of a group's channels; `None` if all of them are zero. A channel that is zero on all images stays as it is:
    /// nothing is known of the values it may have on others.
    fn factors(&self, channels: &[Channel], exponent: f64) -> Option<Vec<f64>> {
        let factor = |c: &Channel| c.range * c.column.powf(exponent - 1.0);
        let largest = channels.iter().map(factor).fold(0.0, f64::max);
        let relative = |c: &Channel| if c.range > 0.0 { (factor(c) / largest).max(1.0 / self.0.limit) } else { 1.0 };
        (largest > 0.0).then(|| channels.iter().map(relative).collect())
    }

    /// Scales all groups of a copy of the network.
    fn scaled(
        &self,
        network: &Preparing<'_>,
        groups: &[ChannelGroup],
        exponents: &[f64],
        channels: &[Vec<Channel>],
    ) -> Result<QuantModel> {
        let mut copy = network.copy();
        for ((group, exponent), channels) in groups.iter().zip(exponents).zip(channels) {
            if let Some(factors) = self.factors(channels, *exponent) {
                scale_channels(&mut copy, group, &factors)?;
            }
        }
        Ok(copy)
    }

    /// The exponent of each group. Where it is measured, all groups of a copy of the network are scaled with one candidate
    /// after the other. Groups can be judged side by side: the scale of a weight's row follows its factor, so the error of a
    /// layer depends only on the factors of what it reads.
    fn exponents(
        &self,
        network: &Preparing<'_>,
        groups: &[ChannelGroup],
        channels: &[Vec<Channel>],
    ) -> Result<Vec<f64>> {
        let graph = network.model.graph();
        let fixed: Vec<Option<f64>> = groups.iter().map(|group| self.exponent(graph, group)).collect();
        let mut best: Vec<(f64, f64)> = fixed.iter().map(|fixed| (f64::INFINITY, fixed.unwrap_or(0.0))).collect();
        if fixed.iter().all(Option::is_some) {
            return Ok(best.into_iter().map(|(_, exponent)| exponent).collect());
        }
        for candidate in CANDIDATES {
            let exponents: Vec<f64> = fixed.iter().map(|fixed| fixed.unwrap_or(candidate)).collect();
            let scaled = self.scaled(network, groups, &exponents, channels)?;
            let errors = layer_errors(network, &scaled, &network.calibrated_copy(&scaled)?)?;
            for ((group, best), fixed) in groups.iter().zip(&mut best).zip(&fixed) {
                let error: f64 = group.consumers.iter().filter_map(|layer| errors.get(layer)).sum();
                if fixed.is_none() && error < best.0 {
                    *best = (error, candidate);
                }
            }
        }
        Ok(best.into_iter().map(|(_, exponent)| exponent).collect())
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
                if quantized.is_empty() {
                    group.values.clone()
                } else {
                    quantized
                }
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

/// The error of each layer when its weight and what it reads are rounded, and nothing else: the sum of squares relative
/// to that of the layer's output, with all output channels weighing equally whatever their scale.
fn layer_errors(network: &Preparing<'_>, float: &QuantModel, quantized: &QuantModel) -> Result<BTreeMap<NodeId, f64>> {
    let mut errors = BTreeMap::new();
    // Each value in full precision, and as the next layer reads it: rounded once, at its site.
    network.walk(MEASURED, |id, [full, rounded]| {
        let value = float.raw_value(id, full, Precision::Float)?;
        let is_layer = float.graph().node(id).op.has_weight();
        if is_layer {
            let own = quantized.raw_value(id, rounded, Precision::Quantized)?.detach();
            errors.insert(id, relative_error(&value, &own)?);
        }
        let rounded = match quantized.activation_site(id) {
            Some(site) => site.quantizer.fake_quantize(&value)?.detach(),
            None if is_layer => value.clone(),
            None => float.raw_value(id, rounded, Precision::Float)?,
        };
        Ok([value, rounded])
    })?;
    Ok(errors)
}

/// The mean over channels of the squared error of each, relative to the square of its values.
fn relative_error(float: &Tensor, quantized: &Tensor) -> Result<f64> {
    let channels = float.dim(1)?;
    let pixels = float.elem_count() / float.dim(0)? / channels;
    let (mut error, mut size) = (vec![0.0; channels], vec![0.0; channels]);
    host_values(float, |f| {
        host_values(quantized, |q| {
            for (i, (f, q)) in f.chunks_exact(pixels).zip(q.chunks_exact(pixels)).enumerate() {
                error[i % channels] += f.iter().zip(q).map(|(f, q)| f64::from((f - q) * (f - q))).sum::<f64>();
                size[i % channels] += f.iter().map(|f| f64::from(f * f)).sum::<f64>();
            }
        })
    })??;
    let share = |(error, size): (&f64, &f64)| if *size > 0.0 { error / size } else { 0.0 };
    Ok(error.iter().zip(&size).map(share).sum::<f64>() / channels as f64)
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
            let exponent = self.exponent(graph, group).map_or("measured".into(), |exponent| exponent.to_string());
            format!("{}: {} channels, exponent {exponent}", name(graph, group), group.factors)
        };
        Ok(channel_groups(graph).iter().map(line).collect())
    }

    fn apply(&self, network: &mut Preparing<'_>) -> Result<Vec<Change>> {
        let groups = channel_groups(network.model.graph());
        let ranges = self.ranges(network, &groups)?;
        let of_group = |(group, ranges): (_, &Vec<f64>)| channels(network.model, group, ranges);
        let all = groups.iter().zip(&ranges).map(of_group).collect::<Result<Vec<_>>>()?;
        let exponents = self.exponents(network, &groups, &all)?;
        let mut changes = Vec::new();
        for ((group, exponent), channels) in groups.iter().zip(exponents).zip(all) {
            let Some(factors) = self.factors(&channels, exponent) else { continue };
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
            ("exponent", !matches!(parsed.exponent, Exponent::Fixed(e) if !(0.0..=1.0).contains(&e)), "is `auto` or lies between 0 and 1"),
            ("limit", parsed.limit >= 1.0 && parsed.limit.is_finite(), "must be at least 1"),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((key, _, message)) => Err(params.error(key, message)),
            None => Ok(Box::new(Equalize(parsed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_share_a_range_between_a_value_and_the_weights_that_read_it() {
        let equalize = Equalize(EqualizeParams::default());
        // Values up to 8, 2 and 0, which weights of the sizes 1, 4 and any other one read.
        let (ranges, sizes) = ([8.0, 2.0, 0.0], [1.0, 4.0, 5.0]);
        let channels: Vec<Channel> =
            ranges.iter().zip(sizes).map(|(range, size)| Channel { range: *range, column: range * size }).collect();
        for exponent in [0.0, 0.25, 0.5, 1.0_f64] {
            let factor = |c: usize| ranges[c].powf(exponent) / f64::powf(sizes[c], 1.0 - exponent);
            let got = equalize.factors(&channels, exponent).unwrap();
            assert_eq!((got[0], got[2]), (1.0, 1.0));
            assert!((got[1] - factor(1) / factor(0)).abs() < 1e-12, "{exponent}: {got:?}");
        }
        assert!(equalize.factors(&channels[2..], 0.5).is_none());
    }
}
