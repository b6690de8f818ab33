//! Operations without weights.

use super::file::{float, int, ints, text, Constant};
use super::network::Network;
use crate::proto::tensor_proto::DataType;
use crate::proto::tensor_shape_proto::dimension::Value as Side;
use crate::proto::tensor_shape_proto::Dimension;
use crate::proto::type_proto::{Tensor, Value};
use crate::proto::{AttributeProto, TensorShapeProto, TypeProto, ValueInfoProto};
use qdrop_core::graph::Node;
use qdrop_core::ops::{host_values, Activation, Padding, Pool2dGeometry};
use qdrop_core::prelude::{Error, NodeId, Op, Result};

/// The name of the batch's side.
const BATCH: &str = "batch";

/// An input or an output of the file: images or vectors of floating-point numbers, any number of them.
pub fn value(name: &str, shape: &[usize]) -> ValueInfoProto {
    let batch = Side::DimParam(BATCH.into());
    let sides = std::iter::once(batch).chain(shape.iter().map(|side| Side::DimValue(*side as i64)));
    let dim = sides.map(|side| Dimension { value: Some(side) }).collect();
    let tensor = Tensor { elem_type: DataType::Float.into(), shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { value: Some(Value::TensorType(tensor)) });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

/// Adds the value of a node before its quantizer.
///
/// # Errors
/// A plugin defines the operation, or a parameter is missing.
pub fn write(network: &mut Network<'_>, id: NodeId) -> Result<()> {
    let node = network.graph().node(id);
    if matches!(node.op, Op::Pad(_)) && is_part_of_convolutions(network, id) {
        return Ok(());
    }
    if node.op.keeps_grid() && network.model.activation_site(id).is_none() {
        if let Some((codes, grid)) = network.codes(node.inputs[0])? {
            let wanted = format!("{}.quantized", node.name);
            let (operator, inputs, attributes) = match node.op {
                Op::Activation(_) => {
                    let [zero, largest] =
                        [grid.zero_point, u8::MAX].map(|code| network.file.constant("code", Constant::scalar(code)));
                    ("Clip", vec![codes, zero, largest], Vec::new())
                }
                // Runtimes pool floating point much faster than bytes.
                Op::MaxPool(_) => {
                    let to = |kind: DataType| vec![int("to", kind as usize)];
                    let codes = network.file.node("Cast", &[&codes], &wanted, to(DataType::Float));
                    let (operator, inputs, attributes) = moved(network, node, codes, Constant::scalar(0.0_f32))?;
                    let pooled = network.file.node(operator, &texts(&inputs), &wanted, attributes);
                    ("Cast", vec![pooled], to(DataType::Uint8))
                }
                _ => moved(network, node, codes, Constant::scalar(grid.zero_point))?,
            };
            let moved = network.file.node(operator, &texts(&inputs), &wanted, attributes);
            network.set_codes(id, moved, grid);
            return Ok(());
        }
    }
    let inputs = node.inputs.iter().map(|input| network.float(*input)).collect::<Result<Vec<String>>>()?;
    let output = network.unquantized_name(id);
    match &node.op {
        Op::Activation(activation) => write_activation(network, *activation, &inputs[0], &output),
        Op::Clip => {
            let bounds = host_values(network.model.parameter(&format!("{}.bound", node.name))?, <[f32]>::to_vec)?;
            if bounds.iter().all(|bound| *bound == bounds[0]) {
                write_clip(network, bounds[0], &inputs[0], &output);
            } else {
                let bound = network.parameter(node, "bound", Some(channel_shape(node)))?;
                let positive = network.file.node("Relu", &texts(&inputs), &output, Vec::new());
                network.file.add("Min", &[&positive, &bound], &output, Vec::new());
            }
        }
        Op::LayerNorm { eps } => write_layer_norm(network, node, *eps, &inputs[0], &output)?,
        Op::BatchNorm { eps } => write_batch_norm(network, node, *eps, &inputs[0], &output)?,
        Op::Add => network.file.add("Add", &texts(&inputs), &output, Vec::new()),
        Op::Mul => network.file.add("Mul", &texts(&inputs), &output, Vec::new()),
        Op::Concat => network.file.add("Concat", &texts(&inputs), &output, vec![int("axis", 1)]),
        Op::GlobalAveragePool => network.file.add("GlobalAveragePool", &texts(&inputs), &output, Vec::new()),
        Op::AveragePool(geometry) => write_average_pool(network, node, geometry, &inputs[0], &output)?,
        Op::MaxPool(_)
        | Op::Pad(_)
        | Op::Slice { .. }
        | Op::ShuffleChannels { .. }
        | Op::Flatten
        | Op::UpsampleNearest { .. } => {
            let zero = Constant::scalar(0.0_f32);
            let (operator, inputs, attributes) = moved(network, node, inputs[0].clone(), zero)?;
            network.file.add(operator, &texts(&inputs), &output, attributes);
        }
        Op::Custom(operator) => {
            let message = format!(
                "the operation '{}' is defined by a plugin, and ONNX has no operator for it; build the network from the \
                 operations of qdrop to export it",
                operator.name()
            );
            return Err(Error::graph(&node.name, message));
        }
        Op::Input | Op::Conv2d { .. } | Op::Linear { .. } => {
            return Err(Error::graph(&node.name, format!("{} is not written here", node.op.name())));
        }
    }
    network.set_float(id, output);
    Ok(())
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Whether only convolutions read the padded value: they pad by themselves.
fn is_part_of_convolutions(network: &Network<'_>, id: NodeId) -> bool {
    let graph = network.graph();
    let convolutions = |id: &NodeId| match graph.node(*id).op {
        Op::Conv2d { .. } => true,
        Op::Pad(_) => is_part_of_convolutions(network, *id),
        _ => false,
    };
    network.model.activation_site(id).is_none()
        && !graph.outputs().contains(&id)
        && graph.consumers(id).iter().all(convolutions)
}

/// A node: operator, inputs, attributes.
type Parts = (&'static str, Vec<String>, Vec<AttributeProto>);

/// The last node of an operation that moves values, in floating point or codes. `zero` stands for zero.
fn moved(network: &mut Network<'_>, node: &Node, input: String, zero: Constant) -> Result<Parts> {
    let indices = |values: &[usize]| Constant::new(values.iter().map(|v| *v as i64), [values.len()]);
    let mut inputs = vec![input];
    let (operator, attributes) = match &node.op {
        Op::MaxPool(geometry) => ("MaxPool", window(network, node, geometry)?.0),
        Op::Pad(padding) => {
            inputs.push(pads(network, padding));
            inputs.push(network.file.constant("zero", zero));
            ("Pad", vec![text("mode", "constant")])
        }
        Op::UpsampleNearest { factor: [y, x] } => {
            let factors = Constant::new([1.0, 1.0, *y as f32, *x as f32], [4]);
            inputs.extend([String::new(), network.file.constant("factors", factors)]);
            let attributes = vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "asymmetric"),
                text("nearest_mode", "floor"),
            ];
            ("Resize", attributes)
        }
        Op::Slice { start, count } => {
            for (name, value) in [("start", *start), ("end", start + count), ("axis", 1)] {
                inputs.push(network.file.constant(name, indices(&[value])));
            }
            ("Slice", Vec::new())
        }
        Op::ShuffleChannels { groups } => {
            let [channels, height, width] = *node.shape.as_slice() else {
                return Err(Error::graph(&node.name, "shuffles the channels of something that is no image"));
            };
            // 0 keeps the batch.
            let rows = network.file.constant("rows", indices(&[0, *groups, channels / groups, height, width]));
            let wanted = format!("{}.rows", node.name);
            let mut value = network.file.node("Reshape", &[&inputs[0], &rows], &wanted, Vec::new());
            value = network.file.node("Transpose", &[&value], &wanted, vec![ints("perm", [0, 2, 1, 3, 4])]);
            inputs = vec![value, network.file.constant("shape", indices(&[0, channels, height, width]))];
            ("Reshape", Vec::new())
        }
        Op::Flatten => ("Flatten", vec![int("axis", 1)]),
        _ => return Err(Error::graph(&node.name, format!("{} does not only move values", node.op.name()))),
    };
    Ok((operator, inputs, attributes))
}

fn pads(network: &mut Network<'_>, padding: &Padding) -> String {
    let sides = [0, 0, padding.top, padding.left, 0, 0, padding.bottom, padding.right];
    network.file.constant("pads", Constant::new(sides.map(|side| side as i64), [8]))
}

/// The attributes of a window, with padding where it ends beyond the padded image; and that padding.
///
/// `ceil_mode` is not used: runtimes do not agree on windows that begin beyond the image.
fn window(network: &Network<'_>, node: &Node, geometry: &Pool2dGeometry) -> Result<(Vec<AttributeProto>, Padding)> {
    let [_, height, width] = *network.graph().node(node.inputs[0]).shape.as_slice() else {
        return Err(Error::graph(&node.name, "pools something that is no image"));
    };
    let out = geometry.of_planes(1, height, width)?;
    let beyond = |axis: usize, size: usize, out: usize| {
        ((out - 1) * geometry.stride[axis] + geometry.kernel[axis])
            .saturating_sub(size + geometry.padding.along(axis).iter().sum::<usize>())
    };
    let (bottom, right) = (beyond(0, height, out.out_height()), beyond(1, width, out.out_width()));
    let own = geometry.padding;
    let attributes = vec![
        ints("kernel_shape", geometry.kernel),
        ints("strides", geometry.stride),
        ints("pads", [own.top, own.left, own.bottom + bottom, own.right + right]),
    ];
    Ok((attributes, Padding { top: 0, left: 0, bottom, right }))
}

fn write_average_pool(
    network: &mut Network<'_>,
    node: &Node,
    geometry: &Pool2dGeometry,
    input: &str,
    output: &str,
) -> Result<()> {
    let (mut attributes, beyond) = window(network, node, geometry)?;
    let mut input = input.to_string();
    let mut count_padding = geometry.count_include_pad;
    if count_padding && beyond != Padding::default() {
        // The padding counts in the divisor, but not what lies beyond it.
        let pads = pads(network, &geometry.padding);
        input = network.file.node("Pad", &[&input, &pads], &format!("{}.padded", node.name), Vec::new());
        attributes[2] = ints("pads", [0, 0, beyond.bottom, beyond.right]);
        count_padding = false;
    }
    attributes.push(int("count_include_pad", usize::from(count_padding)));
    network.file.add("AveragePool", &[&input], output, attributes);
    Ok(())
}

/// The shape in which one number for each channel is broadcast to a value of the node.
fn channel_shape(node: &Node) -> Vec<usize> {
    node.shape.iter().enumerate().map(|(axis, side)| if axis == 0 { *side } else { 1 }).collect()
}

/// Batch normalization that could not be folded: times `gamma / sqrt(var + eps)`, plus `beta - mean * gamma / sqrt(var + eps)`.
fn write_batch_norm(network: &mut Network<'_>, node: &Node, eps: f64, input: &str, output: &str) -> Result<()> {
    let parameter = |name: &str| network.model.parameter(&format!("{}.{name}", node.name));
    let (gamma, beta) = (parameter("weight")?, parameter("bias")?);
    let (mean, variance) = (parameter("running_mean")?, parameter("running_var")?);
    let factor = gamma.div(&(variance + eps)?.sqrt()?)?;
    let offset = (beta - (mean * &factor)?)?;
    let factor = network.tensor(&format!("{}.factor", node.name), &factor, Some(channel_shape(node)))?;
    let offset = network.tensor(&format!("{}.offset", node.name), &offset, Some(channel_shape(node)))?;
    let scaled = network.file.node("Mul", &[input, &factor], output, Vec::new());
    network.file.add("Add", &[&scaled, &offset], output, Vec::new());
    Ok(())
}

/// Layer normalization over the channels: `(x - mean) / sqrt(variance + eps) * weight + bias`. The operator of ONNX
/// normalizes over the last axes alone.
fn write_layer_norm(network: &mut Network<'_>, node: &Node, eps: f64, input: &str, output: &str) -> Result<()> {
    let weight = network.parameter(node, "weight", Some(channel_shape(node)))?;
    let bias = network.parameter(node, "bias", Some(channel_shape(node)))?;
    let file = &mut network.file;
    let (axis, wanted) = (file.constant("axis", Constant::new([1_i64], [1])), format!("{}.normal", node.name));
    let eps = file.constant("eps", Constant::scalar(eps as f32));
    let mean = file.node("ReduceMean", &[input, &axis], &wanted, Vec::new());
    let centered = file.node("Sub", &[input, &mean], &wanted, Vec::new());
    let mut variance = file.node("Mul", &[&centered, &centered], &wanted, Vec::new());
    variance = file.node("ReduceMean", &[&variance, &axis], &wanted, Vec::new());
    variance = file.node("Add", &[&variance, &eps], &wanted, Vec::new());
    let deviation = file.node("Sqrt", &[&variance], &wanted, Vec::new());
    let normal = file.node("Div", &[&centered, &deviation], &wanted, Vec::new());
    let scaled = file.node("Mul", &[&normal, &weight], &wanted, Vec::new());
    file.add("Add", &[&scaled, &bias], output, Vec::new());
    Ok(())
}

/// `min(max(x, 0), bound)`.
fn write_clip(network: &mut Network<'_>, bound: f32, input: &str, output: &str) {
    let bounds = [0.0, bound].map(|bound| network.file.constant("bound", Constant::scalar(bound)));
    network.file.add("Clip", &[input, &bounds[0], &bounds[1]], output, Vec::new());
}

fn write_activation(network: &mut Network<'_>, activation: Activation, input: &str, output: &str) {
    let exact = network.is_exact();
    let file = &mut network.file;
    let sixth = 1.0_f32 / 6.0;
    match activation {
        Activation::Relu => file.add("Relu", &[input], output, Vec::new()),
        Activation::Relu6 => write_clip(network, 6.0, input, output),
        Activation::Sigmoid => file.add("Sigmoid", &[input], output, Vec::new()),
        Activation::Silu => {
            let gate = file.node("Sigmoid", &[input], output, Vec::new());
            file.add("Mul", &[input, &gate], output, Vec::new());
        }
        Activation::Gelu => {
            // x * (1 + erf(x / sqrt(2))) / 2; the operator is younger than this operator set.
            let [root, one, half] =
                [std::f32::consts::SQRT_2, 1.0, 0.5].map(|v| file.constant("number", Constant::scalar(v)));
            let mut below = file.node("Div", &[input, &root], output, Vec::new());
            below = file.node("Erf", &[&below], output, Vec::new());
            below = file.node("Add", &[&below, &one], output, Vec::new());
            let value = file.node("Mul", &[input, &below], output, Vec::new());
            file.add("Mul", &[&value, &half], output, Vec::new());
        }
        Activation::HardSigmoid | Activation::HardSwish if exact => {
            // The operators of ONNX round in another order.
            let three = file.constant("three", Constant::scalar(3.0_f32));
            let sixth = file.constant("sixth", Constant::scalar(sixth));
            let bounds = [0.0_f32, 6.0].map(|bound| file.constant("bound", Constant::scalar(bound)));
            let mut gate = file.node("Add", &[input, &three], output, Vec::new());
            gate = file.node("Clip", &[&gate, &bounds[0], &bounds[1]], output, Vec::new());
            if activation == Activation::HardSwish {
                gate = file.node("Mul", &[input, &gate], output, Vec::new());
            }
            file.add("Mul", &[&gate, &sixth], output, Vec::new());
        }
        Activation::HardSigmoid => {
            file.add("HardSigmoid", &[input], output, vec![float("alpha", sixth), float("beta", 0.5)]);
        }
        Activation::HardSwish => file.add("HardSwish", &[input], output, Vec::new()),
    }
}
