//! Convolutions and fully connected layers.

use super::file::{int, ints, Constant};
use super::network::Network;
use super::product;
use super::weight::{float_weight, integer_weight, steps};
use crate::proto::AttributeProto;
use qdrop_core::graph::Node;
use qdrop_core::model::{IntegerLayer, IntegerSums, Precision, WeightCodes};
use qdrop_core::prelude::{NodeId, Op, Result, Tensor};

/// A layer that is being written.
pub struct Layer<'a> {
    id: NodeId,
    node: &'a Node,
    operator: &'static str,
    attributes: Vec<AttributeProto>,
    /// The value that it reads, where padding by zeros before a convolution belongs to the convolution.
    input: NodeId,
    integers: Option<IntegerLayer>,
    bias: Option<&'a Tensor>,
}

impl<'a> Layer<'a> {
    /// Plans a layer.
    pub fn new(network: &mut Network<'a>, id: NodeId) -> Result<Self> {
        let model = network.model;
        let node = model.graph().node(id);
        let mut input = node.inputs[0];
        let (operator, attributes) = match &node.op {
            Op::Conv2d { kernel, geometry, .. } => {
                let mut pads = [0; 4];
                let mut add = |more: &qdrop_core::ops::Padding| {
                    let more = [more.top, more.left, more.bottom, more.right];
                    pads.iter_mut().zip(more).for_each(|(pad, more)| *pad += more);
                };
                add(&geometry.padding);
                while let (Op::Pad(padding), None) = (&model.graph().node(input).op, model.activation_site(input)) {
                    add(padding);
                    input = model.graph().node(input).inputs[0];
                }
                let attributes = vec![
                    int("group", geometry.groups),
                    ints("kernel_shape", *kernel),
                    ints("strides", geometry.stride),
                    ints("pads", pads),
                    ints("dilations", geometry.dilation),
                ];
                ("Conv", attributes)
            }
            // The weight is stored with one row for each output.
            _ => ("Gemm", vec![int("transB", 1)]),
        };
        let bias = model.bias_at(id, Precision::Quantized);
        Ok(Self { id, node, operator, attributes, input, integers: network.integer_layer(id), bias })
    }

    /// Adds the layer's value before its quantizer.
    pub fn write(self, network: &mut Network<'a>) -> Result<()> {
        let name = format!("{}.weight", self.node.name);
        let codes = network.model.weight_codes(self.id)?;
        if let (None, Some(codes), Some(layer)) = (&self.integers, &codes, network.product(self.id)) {
            if let Some(output) = product::write(network, self.id, codes, &layer)? {
                network.set_float(self.id, output);
                return Ok(());
            }
        }
        if let (Some(codes), Some(sums)) = (&codes, network.sums(self.id)?) {
            return self.write_sums(network, codes, &sums);
        }
        let (input, weight, bias) = match (&self.integers, codes) {
            (Some(layer), Some(codes)) => {
                let input = network.dequantized(self.input)?;
                let weight = integer_weight(&mut network.file, &name, &codes, layer);
                (input, weight, self.integer_bias(network, layer))
            }
            (_, Some(codes)) => {
                let weight = float_weight(&mut network.file, &name, &codes);
                (network.float(self.input)?, weight, self.float_bias(network)?)
            }
            (_, None) => {
                let weight = network.parameter(self.node, "weight", None)?;
                (network.float(self.input)?, weight, self.float_bias(network)?)
            }
        };
        let inputs: Vec<&str> = [&input, &weight].into_iter().chain(&bias).map(String::as_str).collect();
        let output = network.unquantized_name(self.id);
        network.file.add(self.operator, &inputs, &output, self.attributes);
        network.set_float(self.id, output);
        Ok(())
    }

    /// Adds the layer's value as sums of integers, in floating point.
    fn write_sums(self, network: &mut Network<'a>, codes: &WeightCodes, sums: &IntegerSums) -> Result<()> {
        let name = &self.node.name;
        let output = network.unquantized_name(self.id);
        let input = network.float(self.input)?;
        let file = &mut network.file;
        let scale = file.constant("scale", Constant::scalar(sums.input_scale));
        let read = format!("{name}.read");
        let divided = file.node("Div", &[&input, &scale], &read, Vec::new());
        let whole = file.node("Round", &[&divided], &read, Vec::new());
        let weight = steps(file, &format!("{name}.weight"), codes);
        let wanted = format!("{name}.sums");
        let value = file.node(self.operator, &[&whole, &weight], &wanted, self.attributes.clone());
        // The sums are integers. `Round` keeps runtimes from multiplying the weight by what follows, and makes integers of
        // sums that a runtime computes with fractions.
        let mut value = file.node("Round", &[&value], &wanted, Vec::new());
        if sums.rest {
            let rest = file.node("Sub", &[&divided, &whole], &format!("{name}.rest"), Vec::new());
            let rest = file.node(self.operator, &[&rest, &weight], &format!("{name}.rest"), self.attributes);
            value = file.node("Add", &[&value, &rest], &wanted, Vec::new());
        }
        let column = |count: usize| std::iter::once(count).chain(std::iter::repeat_n(1, codes.shape.len() - 2));
        let scale = Constant::new(sums.scale.iter().copied(), column(sums.scale.len()));
        let scale = file.constant(&format!("{name}.scale"), scale);
        match self.bias {
            Some(bias) => {
                let value = file.node("Mul", &[&value, &scale], &wanted, Vec::new());
                let bias = network.tensor(&format!("{name}.bias"), bias, Some(column(sums.scale.len()).collect()))?;
                network.file.add("Add", &[&value, &bias], &output, Vec::new());
            }
            None => file.add("Mul", &[&value, &scale], &output, Vec::new()),
        }
        network.set_float(self.id, output);
        Ok(())
    }

    fn float_bias(&self, network: &mut Network<'a>) -> Result<Option<String>> {
        let name = format!("{}.bias", self.node.name);
        self.bias.map(|bias| network.tensor(&name, bias, None)).transpose()
    }

    /// Adds the bias as integers, and their values in floating point.
    fn integer_bias(&self, network: &mut Network<'a>, layer: &IntegerLayer) -> Option<String> {
        let name = format!("{}.bias", self.node.name);
        let bias = layer.bias.as_ref()?;
        let integers = Constant::new(bias.iter().copied(), [bias.len()]);
        let integers = network.file.constant(&format!("{name}.int32"), integers);
        let scale = Constant::new(layer.bias_scale.iter().copied(), [bias.len()]);
        let scale = network.file.constant(&format!("{name}.scale"), scale);
        Some(network.file.node("DequantizeLinear", &[&integers, &scale], &name, vec![int("axis", 0)]))
    }
}
