//! Layers as sums of integers: what a quantized network computes.

use super::{Precision, QuantModel};
use crate::error::{Error, Result, TensorContext};
use crate::graph::{Node, NodeId, Op, Subgraph};
use crate::ops;
use candle_core::Tensor;

/// The scale of images' steps, in the units of the network's input: with weights of 8 bits, sums of steps are exact where
/// `|x| * sum(|integers of w|)` is at most 2^17, as it is for normalized images.
const IMAGE_SCALE: f32 = 1.0 / 128.0;

/// A layer whose weight and input lie on grids of at most 8 bits: `sum(x * w) = scale * sum(integers of x * integers of w)`.
///
/// Sums of integers do not depend on their order as long as they are exact, which in f32 they are up to 2^24; sums of numbers
/// with fractions do, and now and then the difference moves a value to the next point of a coarse grid, from where it spreads.
/// So a quantized network computes the integers: on all engines, and in exported files, it is the same network.
///
/// An image lies on no grid. It is divided into integers and a [rest](Self::rest) that is so small that the order of its sums
/// hardly ever shows.
#[derive(Debug, Clone)]
pub struct IntegerSums {
    /// The scale of the values that the layer reads.
    pub input_scale: f32,
    /// Whether the layer reads values that are no multiples of the scale. It then adds the sums of the rest of each value,
    /// `x / input_scale - round(x / input_scale)`, to those of the integers.
    pub rest: bool,
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
        let sums = |x: &Tensor| match &node.op {
            Op::Conv2d { geometry, .. } => ops::conv2d(x, &self.weight, None, geometry),
            _ => ops::linear(x, &self.weight, None),
        };
        let run = || {
            let x = (x / f64::from(self.input_scale))?;
            let whole = ops::composite::round_half_even(&x)?;
            let mut value = sums(&whole)?;
            if self.rest {
                value = (value + sums(&(x - whole)?)?)?;
            }
            let column = |values: &Tensor| ops::along_channels(values, value.rank());
            let scale = Tensor::new(self.scale.as_slice(), value.device())?;
            let scaled = value.broadcast_mul(&column(&scale)?)?;
            match bias {
                Some(bias) => scaled.broadcast_add(&column(bias)?),
                None => Ok(scaled),
            }
        };
        run().doing(format!("computing {} '{}' in integers", node.op.name(), node.name))
    }
}

impl QuantModel {
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

    /// A layer of `part` as sums of integers; `None` if its weight does not lie on a grid of at most 8 bits, or its input is
    /// neither the image nor on such a grid with one scale. Values from outside of the part may lie anywhere, so the quantizer
    /// of the input must be one of the part's.
    ///
    /// # Errors
    /// A quantizer has no range, or an operation of candle fails.
    pub fn integer_sums(&self, node: NodeId, part: &Subgraph) -> Result<Option<IntegerSums>> {
        let Some((input_scale, rest)) = self.steps_read(node, part)? else { return Ok(None) };
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
        Ok(Some(IntegerSums { input_scale, rest, weight, scale }))
    }

    /// The scale of what a layer of `part` reads, and whether that lies beside the scale's multiples.
    fn steps_read(&self, node: NodeId, part: &Subgraph) -> Result<Option<(f32, bool)>> {
        let Some(input) = self.graph.node(node).inputs.first().filter(|_| self.graph.node(node).op.has_weight()) else {
            return Ok(None);
        };
        if let Some((source, scale, _)) = self.integer_input(node)? {
            let path = std::iter::successors(Some(*input), |id| self.graph.node(*id).inputs.first().copied());
            let inside = part.contains(source) && path.take_while(|id| *id != source).all(|id| part.contains(id));
            return Ok(inside.then_some((scale, false)));
        }
        let mut source = *input;
        while self.graph.node(source).op.keeps_grid() && self.activation_site(source).is_none() {
            source = self.graph.node(source).inputs[0];
        }
        Ok((source == self.graph.input()).then_some((IMAGE_SCALE, true)))
    }
}
