//! The cached values that a unit is reconstructed from.

use crate::cache::CachedValues;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::ops;
use candle_core::Tensor;
use std::sync::Arc;

/// The cached values of all samples that a unit is reconstructed from. Inputs and outputs are in the order of the
/// unit's subgraph.
#[derive(Debug, Clone)]
pub struct UnitSamples {
    /// The unit's inputs in the network quantized so far.
    pub quantized_inputs: Vec<Arc<CachedValues>>,
    /// The unit's inputs in the full-precision network.
    pub float_inputs: Vec<Arc<CachedValues>>,
    /// The unit's outputs in the full-precision network.
    pub float_outputs: Vec<Arc<CachedValues>>,
    /// Values of the full-precision network that bypass the unit: computed before it and read after it.
    pub passing: Vec<(NodeId, Arc<CachedValues>)>,
    /// The range to which the loss clips each output and its target, from the lowest to the highest value. The gradient passes
    /// the clipping. Empty if nothing is clipped.
    pub ranges: Vec<[f32; 2]>,
}

/// The range that clips nothing.
pub const EVERYTHING: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

impl UnitSamples {
    /// Keeps all of `data` in memory. No values bypass the unit.
    ///
    /// # Errors
    /// There is no sample.
    pub fn in_memory(data: &UnitData) -> Result<Self> {
        let cached = |values: &[Tensor]| values.iter().map(CachedValues::in_memory).collect::<Result<Vec<_>>>();
        Ok(Self {
            quantized_inputs: cached(&data.quantized_inputs)?,
            float_inputs: cached(&data.float_inputs)?,
            float_outputs: cached(&data.float_outputs)?,
            passing: Vec::new(),
            ranges: Vec::new(),
        })
    }

    /// Checks that inputs and outputs have equally many samples.
    pub(crate) fn check(&self) -> Result<(), String> {
        let values = self.quantized_inputs.iter().chain(&self.float_inputs).chain(&self.float_outputs);
        let counts: Vec<usize> = values.map(|values| values.samples()).collect();
        match counts.iter().all(|count| *count == self.count()) {
            true => Ok(()),
            false => Err(format!("its inputs and outputs are cached for different numbers of samples: {counts:?}")),
        }
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.float_outputs.first().map_or(0, |values| values.samples())
    }

    /// The size of groups of samples that have one shape, while others may have another one; `None` if all have one shape.
    pub fn group(&self) -> Option<usize> {
        self.float_outputs.first().and_then(|values| values.group())
    }

    /// Samples that are computed together.
    pub fn together(&self) -> usize {
        self.float_outputs.first().map_or(1, |values| values.together())
    }

    /// The range to which the loss clips an output, by its number, and its target.
    pub fn range(&self, output: usize) -> [f32; 2] {
        self.ranges.get(output).copied().unwrap_or(EVERYTHING)
    }

    /// The float network's outputs of the given samples.
    ///
    /// # Errors
    /// A sample does not exist, or cached values cannot be read.
    pub fn targets(&self, samples: &[usize]) -> Result<Vec<Tensor>> {
        self.float_outputs.iter().map(|values| values.gather(samples)).collect()
    }

    /// The reconstruction loss of a unit's outputs for the given samples: the sum of the losses of all outputs, clipped to
    /// their ranges.
    ///
    /// # Errors
    /// Their number is not that of the unit's outputs, one does not match its target, or cached values cannot be read.
    pub fn loss(&self, outputs: &[Tensor], samples: &[usize]) -> Result<Tensor> {
        if outputs.len() != self.float_outputs.len() {
            let (given, known) = (outputs.len(), self.float_outputs.len());
            return Err(Error::message(format!("the loss of {given} outputs of a unit that has {known}")));
        }
        let pairs = outputs.iter().zip(self.targets(samples)?).enumerate();
        let loss = ops::total(pairs.map(|(i, (output, target))| match self.range(i) {
            EVERYTHING => Ok(ops::reconstruction_loss(output, &target)?),
            [low, high] => {
                let clipped = output.detach().clamp(low, high)?;
                // Adds nothing but the difference, so that the gradient passes.
                let output = (output + (clipped - output.detach())?)?;
                Ok(ops::reconstruction_loss(&output, &target.clamp(low, high)?)?)
            }
        }))?;
        loss.ok_or_else(|| Error::message("the loss of a unit without outputs"))
    }

    /// A value of the float network that bypasses the unit, for the given samples.
    ///
    /// # Errors
    /// The value is not cached, or cached values cannot be read.
    pub fn passing(&self, value: NodeId, samples: &[usize]) -> Result<Tensor> {
        let found = self.passing.iter().find(|(id, _)| *id == value);
        let (_, cached) = found.ok_or_else(|| Error::message("a value that passes the unit is not cached"))?;
        cached.gather(samples)
    }
}

/// The values of some samples that a unit is reconstructed from; the first axis counts samples. Inputs and outputs are
/// in the order of the unit's subgraph.
#[derive(Debug, Clone)]
pub struct UnitData {
    /// The unit's inputs in the network quantized so far.
    pub quantized_inputs: Vec<Tensor>,
    /// The unit's inputs in the full-precision network.
    pub float_inputs: Vec<Tensor>,
    /// The unit's outputs in the full-precision network.
    pub float_outputs: Vec<Tensor>,
}

impl UnitData {
    /// The values of a unit with one input and one output.
    pub fn single(quantized_input: Tensor, float_input: Tensor, float_output: Tensor) -> Self {
        Self {
            quantized_inputs: vec![quantized_input],
            float_inputs: vec![float_input],
            float_outputs: vec![float_output],
        }
    }
}

/// The site at which an input of a unit is mixed from quantized and float values: 0 for the first input, 65,535 and
/// downwards for further ones. Activation quantizers have the sites from 1 upwards.
pub fn input_site(input: usize) -> usize {
    match input {
        0 => 0,
        further => usize::from(u16::MAX) - (further - 1),
    }
}
