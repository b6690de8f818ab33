//! Layers as sums of integers: what a quantized network computes.

use super::{Precision, QuantModel};
use crate::error::{Error, Result, TensorContext};
use crate::graph::{Node, NodeId, Op};
use crate::ops;
use candle_core::Tensor;

/// A layer whose weight and input lie on grids of at most 8 bits: `sum(x * w) = scale * sum(integers of x * integers of w)`.
///
/// Sums of integers do not depend on their order as long as they are exact, which in f32 they are up to 2^24; sums of numbers
/// with fractions do, and now and then the difference moves a value to the next point of a coarse grid. So a quantized network
/// computes the integers: on all engines, and in exported files, it is the same network.
#[derive(Debug, Clone)]
pub struct IntegerSums {
    /// The scale of the values that the layer reads.
    pub input_scale: f32,
    /// The weight as multiples of its scale, in its shape.
    pub weight: Tensor,
    /// What a sum of integers is multiplied by, for each output channel: the scale of the input times that of the weight.
    pub scale: Vec<f32>,
}

impl IntegerSums {
    /// The layer's value for its input, before its own quantizer.
    ///
    /// # Errors
    /// The node is no layer, or an operation of candle fails; the error names the node.
    pub fn value(&self, node: &Node, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let run = || {
            let x = ops::composite::round_half_even(&(x / f64::from(self.input_scale))?)?;
            let sums = match &node.op {
                Op::Conv2d { geometry, .. } => ops::conv2d(&x, &self.weight, None, geometry)?,
                _ => ops::linear(&x, &self.weight, None)?,
            };
            let column = |values: &Tensor| ops::along_channels(values, x.rank());
            let scale = Tensor::new(self.scale.as_slice(), x.device())?;
            let value = sums.broadcast_mul(&column(&scale)?)?;
            match bias {
                Some(bias) => value.broadcast_add(&column(bias)?),
                None => Ok(value),
            }
        };
        run().doing(format!("computing {} '{}' in integers", node.op.name(), node.name))
    }
}

impl QuantModel {
    /// Computes the value of one node from the values of its inputs; layers as [sums of integers](IntegerSums) where they are
    /// some.
    ///
    /// # Errors
    /// A shape does not fit, or an operation of candle fails; the error names the node.
    pub fn node_value(&self, id: NodeId, inputs: &[&Tensor], precision: Precision) -> Result<Tensor> {
        let sums = match precision {
            Precision::Quantized => self.integer_sums(id)?,
            Precision::Float => None,
        };
        self.value_of_sums(id, inputs, precision, sums.as_ref())
    }

    /// The value of one node, whose sums were prepared.
    pub(crate) fn value_of_sums(
        &self,
        id: NodeId,
        inputs: &[&Tensor],
        precision: Precision,
        sums: Option<&IntegerSums>,
    ) -> Result<Tensor> {
        let value = match (sums, inputs) {
            (Some(sums), &[x, ..]) => sums.value(self.graph.node(id), x, self.bias_at(id, precision))?,
            _ => self.raw_value(id, inputs, precision)?,
        };
        match self.activations.get(&id) {
            Some(site) if precision == Precision::Quantized => site.quantizer.fake_quantize(&value),
            _ => Ok(value),
        }
    }

    /// A layer as sums of integers; `None` if its weight or its input does not lie on a grid of at most 8 bits, one scale for
    /// all values of the input.
    ///
    /// # Errors
    /// A quantizer has no range, or an operation of candle fails.
    pub fn integer_sums(&self, node: NodeId) -> Result<Option<IntegerSums>> {
        let Some((_, input_scale, _)) = self.integer_input(node)? else { return Ok(None) };
        let codes = match self.weight_codes(node) {
            // The quantizer of a plugin may leave a weight beside its grid.
            Err(Error::Graph { .. }) => None,
            codes => codes?,
        };
        let Some(codes) = codes.filter(|codes| codes.bits <= 8) else { return Ok(None) };
        let channels = codes.shape.first().copied().unwrap_or_default();
        let weight: Vec<f32> = (0..channels).flat_map(|c| codes.integers(c)).map(|w| w as f32).collect();
        let weight = Tensor::from_vec(weight, codes.shape.as_slice(), self.device())?;
        let scale = (0..channels).map(|c| codes.scale[c.min(codes.scale.len() - 1)] * input_scale).collect();
        Ok(Some(IntegerSums { input_scale, weight, scale }))
    }
}
