//! The loss around the weights of a quantized network: along the perturbation that quantization was, and in random directions
//! (QDrop, arXiv 2203.05740, section 3; directions as in Li et al., Visualizing the Loss Landscape, arXiv 1712.09913, section 4).

use super::Session;
use crate::error::{Error, Result};
use crate::graph::{NodeId, SiteKind};
use crate::head::ImageSize;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::progress::{Event, Progress};
use crate::random::{stream, Purpose};
use crate::task::{ImageValues, Metric, MetricUnit};
use candle_core::Tensor;
use qdrop_kernels::random::Stream;
use serde::{Deserialize, Serialize};

/// Distances along the quantization's perturbation: at -1 are the float weights, at 0 the quantized ones.
const ALONG: usize = 21;
/// Distances in a random direction.
const AWAY: usize = 11;
/// The largest distance in a random direction, in norms of each filter.
const FARTHEST: f64 = 0.5;
/// Number of random directions.
const DIRECTIONS: usize = 3;

/// Where a curve leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Along `quantized - float` weights; distance 1 is as far as quantization moved them.
    Quantization,
    /// Random directions, in which each filter moves by its own norm at distance 1. The mean over three of them.
    Random,
}

impl Direction {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantization => "quantization",
            Self::Random => "random",
        }
    }
}

/// The loss along a direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The direction.
    pub direction: Direction,
    /// Whether activations are quantized.
    pub activations: bool,
    /// The points.
    pub points: Vec<CurvePoint>,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Distance from the quantized weights.
    pub distance: f64,
    /// Mean loss over the images (and directions).
    pub loss: f64,
    /// Its standard error over the images.
    pub standard_error: Option<f64>,
}

/// The images of a measurement: batches (N, C, H, W), and each image's size within its batch.
pub type Batches = [(Tensor, Vec<ImageSize>)];

impl Session<'_> {
    /// The loss around the weights of `quantized`, one curve for each direction with and without quantized activations: how far the
    /// network's results are from those of `float` on the images, as the task's first deviation says. `float` is the prepared float
    /// network, with the same graph.
    ///
    /// # Errors
    /// The task does not compare networks without a ground truth, the networks do not match, or the run was cancelled.
    pub fn flatness(
        &self,
        (float, quantized): (&QuantModel, &QuantModel),
        images: &Batches,
        progress: &dyn Progress,
    ) -> Result<Vec<Curve>> {
        self.check_deviates("task")?;
        let metric = self.task().deviation_metrics().into_iter().next();
        let metric = metric.unwrap_or_else(|| Metric::number("loss", "loss"));
        let mut targets = Vec::new();
        let mut inference = Inference::of_network(float, Precision::Float)?;
        for (batch, sizes) in images {
            targets.push(float.finish(inference.forward(batch)?, sizes)?);
        }
        let nodes: Vec<NodeId> = quantized.weight_sites().map(|(id, _)| id).collect();
        let weights = nodes.iter().map(|id| Ok((*id, quantized.weight(*id)?.clone())));
        let weights: Vec<(NodeId, Tensor)> = weights.collect::<Result<_>>()?;
        let along = weights.iter().map(|(id, hard)| Ok((hard - float.weight(*id)?)?)).collect::<Result<Vec<_>>>()?;
        let seed = self.recipe().seed;
        let random = (0..DIRECTIONS).map(|i| {
            let filters = weights.iter().enumerate();
            let direction = |(j, (_, weight)): (usize, &(NodeId, Tensor))| {
                filter_normalized(weight, stream(seed, Purpose::Direction, i as u32, j as u32))
            };
            filters.map(direction).collect::<Result<Vec<_>>>()
        });
        let random = random.collect::<Result<Vec<_>>>()?;
        let total = 2 * (ALONG + DIRECTIONS * AWAY);
        progress.event(Event::Started { stage: "measuring flatness", total });
        let mut done = 0;
        let mut curves = Vec::new();
        for activations in [false, true] {
            let mut moving = self.moving(quantized, activations)?;
            let precision = if activations { Precision::Quantized } else { Precision::Float };
            let mut loss_at = |directions: &[Tensor], distance: f64| -> Result<Vec<f64>> {
                if progress.cancelled() {
                    return Err(Error::Cancelled);
                }
                for ((id, weight), direction) in weights.iter().zip(directions) {
                    moving.set_weight(*id, (weight + (direction * distance)?)?)?;
                }
                let mut inference = Inference::of_network(&moving, precision)?;
                let mut losses = Vec::new();
                for ((batch, sizes), targets) in images.iter().zip(&targets) {
                    let outputs = moving.finish(inference.forward(batch)?, sizes)?;
                    let rows = self.task().deviations(&outputs, targets)?;
                    losses.extend(rows.into_iter().filter_map(|row| row.first().copied()));
                }
                done += 1;
                progress.event(Event::Advanced(done));
                Ok(losses)
            };
            let point = |distance: f64, values: Vec<f64>| {
                let all = ImageValues { metric: Metric { unit: MetricUnit::Number, ..metric.clone() }, values };
                CurvePoint { distance, loss: all.mean(), standard_error: all.standard_error() }
            };
            let points = distances(ALONG, 1.0).map(|distance| Ok(point(distance, loss_at(&along, distance)?)));
            let points = points.collect::<Result<_>>()?;
            curves.push(Curve { direction: Direction::Quantization, activations, points });
            let points = distances(AWAY, FARTHEST).map(|distance| {
                let mut mean: Vec<f64> = Vec::new();
                for direction in &random {
                    let losses = loss_at(direction, distance)?;
                    mean.resize(losses.len(), 0.0);
                    mean.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss / DIRECTIONS as f64);
                }
                Ok(point(distance, mean))
            });
            let points = points.collect::<Result<_>>()?;
            curves.push(Curve { direction: Direction::Random, activations, points });
        }
        progress.event(Event::Finished);
        Ok(curves)
    }

    /// The quantized network without quantizers of weights, which can move off their grids.
    fn moving(&self, quantized: &QuantModel, activations: bool) -> Result<QuantModel> {
        let mut plans = self.plans_of(quantized.graph())?;
        plans.retain(|plan| activations && plan.site.kind == SiteKind::Activation);
        self.copy_with_grids(quantized, quantized, &plans)
    }
}

/// Evenly spaced distances from `-farthest` to `farthest`, with 0 in the middle.
fn distances(count: usize, farthest: f64) -> impl Iterator<Item = f64> {
    let middle = (count / 2) as f64;
    (0..count).map(move |i| (i as f64 - middle) / middle * farthest)
}

/// A direction of normally distributed elements, in which each filter, an output channel of the weight, has the norm of the weight's.
fn filter_normalized(weight: &Tensor, random: Stream) -> Result<Tensor> {
    let filters = weight.dim(0)?;
    let direction = host_values(weight, |values| {
        let each = (values.len() / filters.max(1)).max(1);
        // Box and Muller: two uniform numbers give a normal one.
        let normal = |i: usize| {
            let [u, v] = [2 * i, 2 * i + 1].map(|i| random.uniform(i));
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut direction: Vec<f64> = (0..values.len()).map(normal).collect();
        for (own, filter) in direction.chunks_mut(each).zip(values.chunks(each)) {
            let wanted = filter.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let drawn = own.iter().map(|v| v * v).sum::<f64>().sqrt();
            own.iter_mut().for_each(|v| *v *= wanted / drawn);
        }
        direction.into_iter().map(|v| v as f32).collect::<Vec<f32>>()
    })?;
    Ok(Tensor::from_vec(direction, weight.shape(), weight.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn filters_keep_their_norms() {
        let weight: Vec<f32> = (0..2 * 3 * 50).map(|i| if i < 150 { 2.0 } else { -0.1 }).collect();
        let weight = Tensor::from_vec(weight, (2, 3, 50), &Device::Cpu).unwrap();
        let direction = filter_normalized(&weight, stream(7, Purpose::Direction, 0, 0)).unwrap();
        let norms = |x: &Tensor| x.sqr().unwrap().sum((1, 2)).unwrap().sqrt().unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in norms(&direction).iter().zip(norms(&weight)) {
            assert!((got - want).abs() < 1e-5 * want, "{got}, {want}");
        }
        let mean = direction.mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(mean.abs() < 0.3 && direction.dims() == weight.dims(), "{mean}");
        let zero = filter_normalized(&weight.zeros_like().unwrap(), stream(7, Purpose::Direction, 0, 0)).unwrap();
        assert_eq!(norms(&zero), [0.0, 0.0]);
    }

    #[test]
    fn distances_have_the_quantized_weights_in_their_middle() {
        let all: Vec<f64> = distances(5, 0.5).collect();
        assert_eq!(all, [-0.5, -0.25, 0.0, 0.25, 0.5]);
    }
}
