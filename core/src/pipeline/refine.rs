//! Refines the ranges of activations by what they do to the network's outputs. The error of a value alone does not tell: a
//! few values that are far from all others decide it, and often an activation function or a pooling later on makes them
//! matter little. LAPQ (Nahshan et al., arXiv 1911.07190) and PTQ4ViT (Yuan et al., arXiv 2111.12293, section 3.3) choose
//! ranges by the loss of the network too.

use crate::error::Result;
use crate::graph::NodeId;
use crate::grid::Range;
use crate::inference::Inference;
use crate::model::{Precision, QuantModel};
use crate::ops::host_values;
use crate::quantizer::Quantizer;
use candle_core::Tensor;
use std::collections::HashMap;

/// Ratio of neighbouring widths that are tried: four of them halve a range.
const RATIO: f64 = 0.840_896_415_253_714_6;
/// How many widths narrower, or wider, than the observed one are tried at most.
const STEPS: i32 = 32;
/// How many widths lie between those that are tried first.
const COARSE: i32 = 4;

/// Chooses among wider and narrower ranges of one activation after the other.
pub struct Refinement {
    samples: usize,
    /// The outputs of the network in full precision.
    float: HashMap<NodeId, Tensor>,
}

impl Refinement {
    /// Computes the network's outputs for the first `samples` of the images.
    ///
    /// # Errors
    /// The network cannot compute the images.
    pub fn new(model: &QuantModel, images: &Tensor, samples: usize) -> Result<Self> {
        let samples = samples.min(images.dim(0)?);
        let outputs = Inference::of_network(model, Precision::Float)?.forward(&images.narrow(0, 0, samples)?)?;
        Ok(Self { samples, float: model.graph().outputs().iter().copied().zip(outputs).collect() })
    }

    /// Of the observed `range` of an activation and wider and narrower ones, the one with which the network's outputs change
    /// least (sum of squares) when this activation is quantized and nothing else. From the best of the observed one and its
    /// halves, quarters and so on, ranges are tried as long as they become better. `values` has what the rest of the network
    /// reads.
    ///
    /// # Errors
    /// The quantizer refuses a range, or the network cannot compute its outputs.
    pub fn refine(
        &self,
        model: &QuantModel,
        node: NodeId,
        quantizer: &mut dyn Quantizer,
        range: Range,
        values: &HashMap<NodeId, Tensor>,
    ) -> Result<Range> {
        let graph = model.graph();
        let after = graph.after(&graph.subgraph([node]));
        let outputs = graph.outputs().iter().copied().filter(|id| after.nodes().contains(id)).collect();
        let rest = graph.subgraph_with_outputs(after.nodes().iter().copied(), outputs);
        let Some(position) = rest.inputs().iter().position(|id| *id == node) else { return Ok(range) };
        let inputs = graph.values_of(rest.inputs(), values)?;
        let first = inputs.iter().map(|all| all.narrow(0, 0, self.samples));
        let mut inputs = first.collect::<candle_core::Result<Vec<_>>>()?;
        let value = inputs[position].clone();
        let mut network = Inference::new(model, Precision::Float, rest.clone())?;
        let mut change = |steps: i32| -> Result<f64> {
            quantizer.set_range(&scaled(&range, steps), model.device())?;
            inputs[position] = quantizer.fake_quantize(&value)?.detach();
            let outputs = network.run(&inputs)?;
            let changes = rest.outputs().iter().zip(&outputs).map(|(id, output)| distance(&self.float[id], output));
            changes.sum()
        };
        // With few bits, a range that covers a few large values rounds all others to zero, and the next narrower ranges do the
        // same: only a much narrower one is better. Where a range cuts off what matters, narrower ones are worse still.
        let (mut first, mut least) = (0_i32, change(0)?);
        for steps in (COARSE..=STEPS).step_by(COARSE as usize) {
            let next = change(steps)?;
            if next > 2.0 * least {
                break;
            }
            if next < least {
                (first, least) = (steps, next);
            }
        }
        let mut best = first;
        for direction in [1, -1] {
            while best.abs() < STEPS {
                let next = change(best + direction)?;
                if next >= least {
                    break;
                }
                (best, least) = (best + direction, next);
            }
            if best != first {
                break;
            }
        }
        Ok(scaled(&range, best))
    }
}

/// The range, so many steps narrower.
fn scaled(range: &Range, steps: i32) -> Range {
    let factor = RATIO.powi(steps) as f32;
    let scaled = |bounds: &[f32]| bounds.iter().map(|b| b * factor).collect();
    Range { min: scaled(&range.min), max: scaled(&range.max) }
}

/// The sum of squared differences.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let squares = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
    Ok(host_values(a, |a| host_values(b, |b| a.iter().zip(b).map(squares).sum()))??)
}
