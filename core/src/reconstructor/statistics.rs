//! What learning from a squared error does not keep: size and mean of a unit's outputs. The layers that follow add up such
//! errors, where they average out independent ones.

use super::task::UnitTask;
use crate::cache::CachedValues;
use crate::error::Result;
use crate::graph::{NodeId, Op, Subgraph};
use crate::grid::Granularity;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use candle_core::Tensor;
use std::sync::Arc;

/// Samples that are computed at a time.
const BATCH: usize = 32;
/// How often biases are moved. Behind a linear output the first time is exact but for the output's quantizer; behind an
/// activation function, which passes a part of the change, each time brings the means closer.
const ROUNDS: usize = 3;
/// Largest factor by which a channel grows or shrinks.
const LARGEST_RATIO: f64 = 3.0;

/// The outputs of a unit compared with their targets.
struct Compared {
    /// Sum of the squared differences.
    squares: f64,
    /// For each output the mean of `target - output` of each channel.
    shifts: Vec<Vec<f64>>,
}

impl UnitTask<'_> {
    /// Gives each channel that the unit's last layers compute the size that it has in the float network, and then the unit's
    /// outputs the means of their targets, over the first `samples` samples. Weights are hard and all values quantized, so
    /// it is done after [`finish`](Self::finish).
    ///
    /// Learning from a squared error makes outputs smaller than their targets, the more so the less of them the quantized
    /// unit can predict (regression dilution); the weights of a channel and their scale are multiplied by the ratio of the
    /// mean absolute deviations, at most 3. Weights that share one scale, and a unit whose float network is not
    /// [known](Self::of_float), keep their size. Means are compared as in the loss ([`clip_to_ranges`](Self::clip_to_ranges)),
    /// and biases move as long as the squared error falls. Batch norm tuning restores the statistics of each layer in the same
    /// way (Hubara et al., arXiv 2006.10518), and bias correction their means (Nagel et al., arXiv 1906.04721, section 4.2).
    ///
    /// The last layers are those from which an output comes through additions, activation functions and poolings alone. Layers
    /// without a bias are left as they are.
    ///
    /// # Errors
    /// Cached values cannot be read, or an operation fails.
    pub fn match_statistics(&mut self, samples: usize) -> Result<()> {
        if samples > 0 {
            // Of groups, which differ in size, the first one.
            let most = self.samples.group().unwrap_or(samples);
            let samples: Vec<usize> = (0..samples.min(most).min(self.sample_count())).collect();
            self.match_sizes(&samples)?;
            self.match_means(&samples)?;
        }
        Ok(())
    }

    fn match_sizes(&mut self, samples: &[usize]) -> Result<()> {
        let (Some(float), part) = (self.float, &self.unit.subgraph) else { return Ok(()) };
        let mut layers: Vec<NodeId> = part.outputs().iter().flat_map(|id| last_layers(self.model, part, *id)).collect();
        layers.sort_unstable_by_key(|id| id.index());
        layers.dedup();
        if layers.is_empty() {
            return Ok(());
        }
        let to_layers = self.model.graph().subgraph_with_outputs(part.nodes().iter().copied(), layers.clone());
        let full = deviations((float, Precision::Float), &to_layers, &self.samples.float_inputs, samples)?;
        let own = deviations((self.model, Precision::Quantized), &to_layers, &self.samples.quantized_inputs, samples)?;
        for (layer, (full, own)) in layers.into_iter().zip(full.iter().zip(&own)) {
            let ratio = |(full, own): (&f64, &f64)| match *full > 0.0 && *own > 0.0 {
                true => (full / own).clamp(LARGEST_RATIO.recip(), LARGEST_RATIO) as f32,
                false => 1.0,
            };
            self.scale_layer(layer, &full.iter().zip(own).map(ratio).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Multiplies each channel that a layer computes.
    fn scale_layer(&mut self, layer: NodeId, ratios: &[f32]) -> Result<()> {
        let device = self.model.device().clone();
        if let Some(site) = self.model.weight_site_mut(layer) {
            if site.quantizer.spec().granularity != Granularity::PerAxis(0) {
                return Ok(());
            }
            let mut params = site.quantizer.qparams()?;
            params.scale.iter_mut().zip(ratios).for_each(|(scale, ratio)| *scale *= ratio);
            site.quantizer.set_qparams(&params, &device)?;
        }
        let ratios = Tensor::new(ratios, &device)?;
        for name in [self.model.weight_name(layer), self.model.bias_name(layer)] {
            let old = self.model.parameter(&name)?;
            let mut column = vec![1; old.rank()];
            column[0] = ratios.elem_count();
            let new = old.broadcast_mul(&ratios.reshape(column)?)?;
            self.model.set_parameter(&name, new)?;
        }
        Ok(())
    }

    fn match_means(&mut self, samples: &[usize]) -> Result<()> {
        let outputs = self.unit.subgraph.outputs().iter();
        // Where values are added, one of the layers can move the mean of the sum.
        let layers = outputs.map(|id| last_layers(self.model, &self.unit.subgraph, *id).first().copied());
        let layers: Vec<Option<NodeId>> = layers.collect();
        if layers.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut compared = self.compared(samples)?;
        for _ in 0..ROUNDS {
            let moved: Vec<NodeId> = layers.iter().flatten().copied().collect();
            let before = self.model.learned_parameters(&moved);
            for (layer, shift) in layers.iter().zip(&compared.shifts) {
                if let Some(layer) = layer {
                    self.move_bias(*layer, shift)?;
                }
            }
            let next = self.compared(samples)?;
            if next.squares >= compared.squares {
                return before.into_iter().try_for_each(|(name, value)| self.model.set_parameter(&name, value));
            }
            compared = next;
        }
        Ok(())
    }

    fn compared(&self, samples: &[usize]) -> Result<Compared> {
        let part = &self.unit.subgraph;
        let mut network = Inference::new(self.model, Precision::Quantized, part.clone())?;
        let (mut squares, mut shifts) = (0.0, vec![Vec::new(); part.outputs().len()]);
        for batch in samples.chunks(BATCH) {
            let inputs = self.samples.quantized_inputs.iter().map(|values| values.gather(batch));
            let outputs = network.run(&inputs.collect::<Result<Vec<_>>>()?)?;
            let pairs = outputs.iter().zip(self.samples.targets(batch)?).zip(&mut shifts).enumerate();
            for (i, ((output, target), shift)) in pairs {
                squares += add_differences(output, &target, self.samples.range(i), shift)?;
            }
        }
        for (shift, output) in shifts.iter_mut().zip(part.outputs()) {
            let values = self.model.graph().node(*output).shape.iter().skip(1).product::<usize>() * samples.len();
            shift.iter_mut().for_each(|sum| *sum /= values as f64);
        }
        Ok(Compared { squares, shifts })
    }

    fn move_bias(&mut self, layer: NodeId, shift: &[f64]) -> Result<()> {
        let name = self.model.bias_name(layer);
        let bias = self.model.parameter(&name)?;
        let shift: Vec<f32> = shift.iter().map(|s| *s as f32).collect();
        let moved = (bias + Tensor::from_vec(shift, bias.shape(), bias.device())?)?;
        self.model.set_parameter(&name, moved)
    }
}

/// The last layers with a bias before a value of the unit, to whose channels the value's belong.
fn last_layers(model: &QuantModel, part: &Subgraph, id: NodeId) -> Vec<NodeId> {
    let node = model.graph().node(id);
    match &node.op {
        _ if !part.contains(id) => Vec::new(),
        op if op.has_weight() => model.bias(id).map(|_| id).into_iter().collect(),
        Op::Activation(_) | Op::Clip | Op::MaxPool(_) | Op::AveragePool(_) | Op::GlobalAveragePool | Op::Add => {
            node.inputs.iter().flat_map(|input| last_layers(model, part, *input)).collect()
        }
        _ => Vec::new(),
    }
}

/// For each output of `part` the mean absolute deviation of each channel from its mean in the batch.
fn deviations(
    (model, precision): (&QuantModel, Precision),
    part: &Subgraph,
    inputs: &[Arc<CachedValues>],
    samples: &[usize],
) -> Result<Vec<Vec<f64>>> {
    let mut network = Inference::new(model, precision, part.clone())?;
    let mut sums = vec![Vec::new(); part.outputs().len()];
    for batch in samples.chunks(BATCH) {
        let inputs = inputs.iter().map(|values| values.gather(batch)).collect::<Result<Vec<_>>>()?;
        for (sums, values) in sums.iter_mut().zip(network.run(&inputs)?) {
            let (samples, channels) = (values.dim(0)?, values.dim(1)?);
            let positions = (values.elem_count() / (samples * channels)).max(1);
            sums.resize(channels, 0.0);
            host_values(&values, |values| {
                for (channel, sum) in sums.iter_mut().enumerate() {
                    let rows = || values.chunks_exact(positions).skip(channel).step_by(channels).flatten();
                    let mean = rows().map(|v| f64::from(*v)).sum::<f64>() / (samples * positions) as f64;
                    *sum += rows().map(|v| (f64::from(*v) - mean).abs()).sum::<f64>();
                }
            })?;
        }
    }
    Ok(sums)
}

/// Adds the differences `target - output` of each channel to `sums`. Returns the sum of their squares.
fn add_differences(output: &Tensor, target: &Tensor, [low, high]: [f32; 2], sums: &mut Vec<f64>) -> Result<f64> {
    let (samples, channels) = (output.dim(0)?, output.dim(1)?);
    let positions = (output.elem_count() / (samples * channels)).max(1);
    sums.resize(channels, 0.0);
    let mut add = |output: &[f32], target: &[f32]| {
        let mut squares = 0.0;
        for (row, (output, target)) in output.chunks_exact(positions).zip(target.chunks_exact(positions)).enumerate() {
            for (output, target) in output.iter().zip(target) {
                let difference = f64::from(target.clamp(low, high)) - f64::from(output.clamp(low, high));
                sums[row % channels] += difference;
                squares += difference * difference;
            }
        }
        squares
    };
    Ok(host_values(output, |output| host_values(target, |target| add(output, target)))??)
}
