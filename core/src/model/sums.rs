//! Layers as sums of integers: what a quantized network computes.

use super::{Precision, QuantModel};
use crate::error::{Error, Result, TensorContext};
use crate::graph::{Node, NodeId, Op, Subgraph};
use crate::ops;
use candle_core::Tensor;

/// The scale of images' steps, in the units of the network's input: with weights of 8 bits, sums of steps are exact where
/// `|x| * sum(|integers of w|)` is at most 2^17, as it is for normalized images.
const IMAGE_SCALE: f32 = 1.0 / 128.0;

/// A layer whose weight lies on a grid of at most 8 bits, and that reads values on such a grid or the image:
/// `sum(x * w) = scale * sum(integers of x * integers of w)`.
///
/// Sums of integers do not depend on their order as long as they are exact: in f32 up to 2^24, in Winograd's form up to about
/// 2^17. Few are larger: those of 8 bits, whose steps are small. Sums of fractions do depend on their order, and now and then
/// the difference moves a value to the next point of a coarse grid, from where it spreads. So forward passes compute quantized
/// layers in integers, on the kernels and through candle, and exact ONNX files do. The steps of a unit that learns sum fractions.
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
    /// The layer's value (N, O, H, W) or (N, O) for its input (N, C, H, W) or (N, C), before its own quantizer; the bias is (O).
    ///
    /// # Errors
    /// An operation of candle fails; the error names the node.
    pub(super) fn value(&self, node: &Node, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
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
        let source = self.moved_from(*input);
        let Some(site) = self.activation_site(source) else {
            return Ok((source == self.graph.input()).then_some((IMAGE_SCALE, true)));
        };
        let path = std::iter::successors(Some(*input), |id| self.graph.node(*id).inputs.first().copied());
        if !path.take_while(|id| *id != source).chain([source]).all(|id| part.contains(id)) {
            return Ok(None);
        }
        Ok(site.byte_grid()?.map(|grid| (grid.scale, false)))
    }
}
