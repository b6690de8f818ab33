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
    if node.op.keeps_grid() {
        if let Some((codes, grid)) = network.codes(node.inputs[0])? {
            let wanted = format!("{}.quantized", node.name);
            let zero = Constant::scalar(grid.zero_point);
            let (operator, inputs, attributes) = moved(network, node, &codes, zero)?;
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
        Op::BatchNorm { eps } => write_batch_norm(network, node, *eps, &inputs[0], &output)?,
        Op::Add => network.file.add("Add", &texts(&inputs), &output, Vec::new()),
        Op::Mul => network.file.add("Mul", &texts(&inputs), &output, Vec::new()),
        Op::Concat => network.file.add("Concat", &texts(&inputs), &output, vec![int("axis", 1)]),
        Op::GlobalAveragePool => network.file.add("GlobalAveragePool", &texts(&inputs), &output, Vec::new()),
        Op::AveragePool(geometry) => write_average_pool(network, node, geometry, &inputs[0], &output)?,
        Op::MaxPool(_) | Op::Pad(_) | Op::Flatten | Op::UpsampleNearest { .. } => {
            let (operator, inputs, attributes) = moved(network, node, &inputs[0], Constant::scalar(0.0_f32))?;
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

/// An operation that moves values, in floating point or codes: the operator, all its inputs, and its attributes.
fn moved(
    network: &mut Network<'_>,
    node: &Node,
    input: &str,
    zero: Constant,
) -> Result<(&'static str, Vec<String>, Vec<AttributeProto>)> {
    let input = input.to_string();
    Ok(match node.op {
        Op::MaxPool(geometry) => ("MaxPool", vec![input], window(network, node, &geometry)?.0),
        Op::Pad(padding) => {
            let pads = pads(network, &padding);
            let zero = network.file.constant("zero", zero);
            ("Pad", vec![input, pads, zero], vec![text("mode", "constant")])
        }
        Op::UpsampleNearest { factor: [y, x] } => {
            let factors = Constant::new([1.0, 1.0, y as f32, x as f32], [4]);
            let factors = network.file.constant("factors", factors);
            let attributes = vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "asymmetric"),
                text("nearest_mode", "floor"),
            ];
            ("Resize", vec![input, String::new(), factors], attributes)
        }
        _ => ("Flatten", vec![input], vec![int("axis", 1)]),
    })
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
        ((out - 1) * geometry.stride[axis] + geometry.kernel[axis]).saturating_sub(size + 2 * geometry.padding[axis])
    };
    let (bottom, right) = (beyond(0, height, out.out_height()), beyond(1, width, out.out_width()));
    let [y, x] = geometry.padding;
    let attributes = vec![
        ints("kernel_shape", geometry.kernel),
        ints("strides", geometry.stride),
        ints("pads", [y, x, y + bottom, x + right]),
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
    let [y, x] = geometry.padding;
    let mut input = input.to_string();
    let mut count_padding = geometry.count_include_pad;
    if count_padding && beyond != Padding::default() {
        // The padding counts in the divisor, but not what lies beyond it.
        let pads = pads(network, &Padding { top: y, bottom: y, left: x, right: x });
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
