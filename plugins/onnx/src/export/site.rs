//! Quantizers of values, in integers and in floating point.

use super::file::{int, Constant, File};
use crate::proto::tensor_proto::DataType;
use qdrop_core::grid::{Granularity, QParams, QuantSpec};
use qdrop_core::kernels::rounding::round_half_even;
use qdrop_core::model::{ByteGrid, QuantModel, QuantSite};
use qdrop_core::ops::{host_values, Activation};
use qdrop_core::prelude::{Error, NodeId, Op, Result};

/// The code of a value that is not negative, without the grid's upper end.
fn code(grid: ByteGrid, value: f32) -> f32 {
    f32::from(grid.zero_point) + round_half_even(value / grid.scale)
}

/// Names of the constants of a quantization: scale and zero point.
pub fn constants(grid: ByteGrid, file: &mut File) -> [String; 2] {
    let scale = file.constant("scale", Constant::scalar(grid.scale));
    [scale, file.constant("zero_point", Constant::scalar(grid.zero_point))]
}

/// A quantizer in integers, with the activation functions before it that are bounds of its codes.
#[derive(Debug, Clone)]
pub struct ByteSite {
    /// The node whose value is quantized; the activation functions follow it.
    pub base: NodeId,
    /// The activation functions, which need no nodes of their own.
    pub absorbed: Vec<NodeId>,
    grid: ByteGrid,
    /// The smallest code.
    low: u8,
    /// The largest code of each channel, or of all.
    high: Vec<u8>,
}

impl ByteSite {
    /// The quantizer at `node`; `None` if bytes cannot hold its codes.
    pub fn of(model: &QuantModel, node: NodeId) -> Result<Option<Self>> {
        let Some(site) = model.activation_site(node) else { return Ok(None) };
        let Some(grid) = site.byte_grid()? else { return Ok(None) };
        let graph = model.graph();
        let mut this = Self { base: node, absorbed: Vec::new(), grid, low: 0, high: vec![grid.largest] };
        loop {
            let current = graph.node(this.base);
            let bounds = match current.op {
                Op::Activation(Activation::Relu) => Vec::new(),
                Op::Activation(Activation::Relu6) => vec![6.0],
                Op::Clip => host_values(model.parameter(&format!("{}.bound", current.name))?, <[f32]>::to_vec)?,
                _ => break,
            };
            let Some(input) = current.inputs.first().copied() else { break };
            let alone = graph.consumers(input).len() == 1 && !graph.outputs().contains(&input);
            if !alone || model.activation_site(input).is_some() {
                break;
            }
            this.bound(&bounds);
            this.absorbed.push(this.base);
            this.base = input;
        }
        Ok(Some(this))
    }

    /// Limits the codes to those of values from 0 to `bounds`, of which there is one for each channel, one for all, or none.
    fn bound(&mut self, bounds: &[f32]) {
        self.low = self.grid.zero_point.min(self.grid.largest);
        let codes = bounds.iter().map(|b| code(self.grid, *b).min(f32::from(self.grid.largest)) as u8);
        let codes: Vec<u8> = codes.collect();
        if codes.len() > self.high.len() {
            self.high = vec![self.high[0]; codes.len()];
        }
        for (i, high) in self.high.iter_mut().enumerate() {
            *high = codes.get(if codes.len() == 1 { 0 } else { i }).map_or(*high, |code| (*high).min(*code));
        }
    }

    /// The grid.
    pub fn grid(&self) -> ByteGrid {
        self.grid
    }

    /// Adds the codes of `value`. `rank` is the number of sides of a value without the batch. Bounds that differ between
    /// channels make `Min` necessary, which runtimes have not always had for bytes; the second result says so.
    pub fn codes(&self, file: &mut File, value: &str, name: &str, rank: usize) -> (String, bool) {
        let [scale, zero_point] = constants(self.grid, file);
        let wanted = format!("{name}.quantized");
        let mut codes = file.node("QuantizeLinear", &[value, &scale, &zero_point], &wanted, Vec::new());
        let largest = self.high.iter().copied().max().unwrap_or(u8::MAX);
        let by_channel = self.high.iter().any(|high| *high != largest);
        if by_channel {
            let shape = std::iter::once(self.high.len()).chain(std::iter::repeat_n(1, rank.saturating_sub(1)));
            let high = file.constant(&format!("{name}.bound"), Constant::new(self.high.iter().copied(), shape));
            codes = file.node("Min", &[&codes, &high], &wanted, Vec::new());
        }
        if self.low > 0 || (largest < u8::MAX && !by_channel) {
            let low = file.constant("low", Constant::scalar(self.low));
            let high = file.constant("high", Constant::scalar(largest));
            codes = file.node("Clip", &[&codes, &low, &high], &wanted, Vec::new());
        }
        (codes, by_channel)
    }
}

/// Adds the value on the grid of any quantizer, computed in floating point as qdrop does:
/// `(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`.
pub fn float_site(file: &mut File, site: &QuantSite, value: &str, name: &str, rank: usize) -> Result<()> {
    let spec = *site.quantizer.spec();
    let QParams { scale, zero_point } = site.quantizer.qparams()?;
    let shape = match spec.granularity {
        Granularity::PerTensor => Vec::new(),
        // The first axis is the batch.
        Granularity::PerAxis(axis) if axis >= 1 && axis <= rank => {
            let mut shape = vec![1; rank];
            shape[axis - 1] = scale.len();
            shape
        }
        Granularity::PerAxis(axis) => {
            return Err(Error::graph(
                name,
                format!("is quantized along axis {axis} of its value, which cannot be written"),
            ))
        }
    };
    let constant = |file: &mut File, wanted: &str, values: &[f32]| {
        file.constant(wanted, Constant::new(values.iter().copied(), shape.iter().copied()))
    };
    let steps = format!("{name}.steps");
    let scale = constant(file, "scale", &scale);
    let value = file.node("Div", &[value, &scale], &steps, Vec::new());
    let value = file.node("Round", &[&value], &steps, Vec::new());
    let value = match zero_point.as_slice() {
        // Bounds around zero need no addition; all these integers are exact.
        [zero_point] => clip(file, &value, &spec, *zero_point, &steps),
        _ => {
            let zero_point = constant(file, "zero_point", &zero_point);
            let value = file.node("Add", &[&value, &zero_point], &steps, Vec::new());
            let value = clip(file, &value, &spec, 0.0, &steps);
            file.node("Sub", &[&value, &zero_point], &steps, Vec::new())
        }
    };
    file.add("Mul", &[&value, &scale], name, Vec::new());
    Ok(())
}

fn clip(file: &mut File, value: &str, spec: &QuantSpec, zero_point: f32, wanted: &str) -> String {
    let low = file.constant("low", Constant::scalar(spec.qmin() - zero_point));
    let high = file.constant("high", Constant::scalar(spec.qmax() - zero_point));
    file.node("Clip", &[value, &low, &high], wanted, Vec::new())
}

/// Adds codes for a value that lies on a grid of bytes already, in a way that runtimes do not join with the layer before.
pub fn codes_on_grid(file: &mut File, grid: ByteGrid, value: &str, wanted: &str) -> String {
    let scale = file.constant("scale", Constant::scalar(grid.scale));
    let zero_point = file.constant("zero_point", Constant::scalar(f32::from(grid.zero_point)));
    let value = file.node("Div", &[value, &scale], wanted, Vec::new());
    let value = file.node("Round", &[&value], wanted, Vec::new());
    let value = file.node("Add", &[&value, &zero_point], wanted, Vec::new());
    file.node("Cast", &[&value], wanted, vec![int("to", DataType::Uint8 as usize)])
}

/// Checks that all quantizers of values round to the nearest point of their grids: others cannot be written.
pub fn check_sites(model: &QuantModel) -> Result<()> {
    for (_, site) in model.activation_sites() {
        if site.quantizer.kernel()?.is_none() {
            let message =
                "has a quantizer that does not say that it rounds to the nearest point of its grid (`kernel`)";
            return Err(Error::graph(&site.name, message));
        }
    }
    Ok(())
}
