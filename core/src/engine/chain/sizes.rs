//! The sizes of a chain's values, which differ where images do.

use super::operation::Operation;
use super::parts::Parts;
use super::refusal::Rejected;
use super::Chain;
use crate::error::{Error, Result};
use crate::graph::geometry::{convolution, image};
use crate::graph::{Graph, NodeId, Subgraph};
use crate::model::QuantModel;
use qdrop_kernels::conv::Conv2dShape;
use qdrop_kernels::pool::Pool2dShape;
use std::collections::HashSet;

/// The sizes of all values for images of one size.
pub struct ChainSizes {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Those of each step.
    pub steps: Vec<StepSizes>,
}

/// The sizes of a step.
pub struct StepSizes {
    /// Channels, height and width of its value.
    pub size: [usize; 3],
    /// The geometry of its convolution, for one image.
    pub convolution: Option<Conv2dShape>,
    /// That of its pooling, for one plane.
    pub pool: Option<Pool2dShape>,
}

/// The sizes of a pooling.
fn pool<L, A>(operation: &Operation<L, A>) -> Option<Pool2dShape> {
    match operation {
        Operation::MaxPool(shape) | Operation::AveragePool(shape) => Some(*shape),
        _ => None,
    }
}

impl ChainSizes {
    /// Channels, height and width of a value: 0 is the input, `i + 1` the value of step `i`.
    pub fn of_value(&self, value: usize) -> [usize; 3] {
        value.checked_sub(1).map_or(self.input, |step| self.steps[step].size)
    }
}

impl Chain {
    /// The sizes for which it was described.
    pub fn sizes(&self) -> ChainSizes {
        let steps = self.steps.iter().map(|step| StepSizes {
            size: step.size,
            convolution: match &step.operation {
                Operation::Convolution(convolution) => Some(convolution.shape),
                _ => None,
            },
            pool: pool(&step.operation),
        });
        ChainSizes { input: self.input, steps: steps.collect() }
    }
}

impl Chain {
    /// The same chain for other sizes, which [`AnySize::sizes`] gave.
    pub fn with_sizes(mut self, sizes: &ChainSizes) -> Self {
        self.input = sizes.input;
        for (step, own) in self.steps.iter_mut().zip(&sizes.steps) {
            step.size = own.size;
            match (&mut step.operation, own.convolution, own.pool) {
                (Operation::Convolution(convolution), Some(shape), _) => convolution.shape = shape,
                (Operation::MaxPool(own) | Operation::AveragePool(own), _, Some(shape)) => *own = shape,
                _ => {}
            }
        }
        self.output = self.steps.last().map_or(sizes.input, |step| step.size);
        self
    }
}

/// A unit whose images may have any size.
pub struct AnySize {
    graph: Graph,
    unit: Subgraph,
    quantized: HashSet<NodeId>,
}

impl AnySize {
    pub fn new(model: &QuantModel, unit: &Subgraph) -> Self {
        let quantized = unit.nodes().iter().copied().filter(|id| model.activation_site(*id).is_some()).collect();
        Self { graph: model.graph().clone(), unit: unit.clone(), quantized }
    }

    /// The sizes for inputs of this shape, in the order of the unit's chain.
    ///
    /// # Errors
    /// The unit cannot take such inputs.
    pub fn sizes(&self, input: &[usize]) -> Result<ChainSizes> {
        let graph = self.graph.reshaped(&self.unit, &[input])?;
        let parts =
            Parts::of(&graph, &self.unit, &|id| self.quantized.contains(&id)).map_err(|rejected| match rejected {
                Rejected::Failed(error) => error,
                Rejected::Refused(why) => Error::message(format!("for values of the shape {input:?}: {why}")),
            })?;
        let steps = parts.parts.iter().map(|part| StepSizes {
            size: image(&graph, part.node),
            convolution: convolution(&graph, part.node, 1),
            pool: pool(&part.operation),
        });
        Ok(ChainSizes { input: image(&graph, parts.input), steps: steps.collect() })
    }
}
