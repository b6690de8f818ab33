//! Convolutions of 1 x 1 pixel whose values are not quantized at once: products of matrices of integers.
//!
//! Runtimes have no fast convolution from codes to floating point, but a product: `MatMulInteger` multiplies codes by signed
//! bytes and sums in 32 bits. With the channels as the last axis, a convolution of 1 x 1 pixel is one product.

use super::file::{int, ints, Constant};
use super::network::Network;
use super::site::constants;
use super::weight::integers;
use crate::proto::tensor_proto::DataType;
use qdrop_core::model::{IntegerLayer, WeightCodes};
use qdrop_core::ops::Padding;
use qdrop_core::prelude::{NodeId, Op, Result};

/// Whether an operation is such a product.
pub fn is_product(op: &Op) -> bool {
    match op {
        Op::Conv2d { kernel, geometry, .. } => {
            *kernel == [1, 1] && geometry.groups == 1 && geometry.padding == Padding::default()
        }
        _ => false,
    }
}

/// Adds the value of a convolution, `(codes - zero_point) x weight * scale + bias`, and returns its name; `None` if the value
/// that it reads has no codes.
///
/// # Errors
/// The value that it reads is not in the file.
pub fn write(
    network: &mut Network<'_>,
    id: NodeId,
    weight: &WeightCodes,
    layer: &IntegerLayer,
) -> Result<Option<String>> {
    let node = network.graph().node(id);
    let (Op::Conv2d { geometry, .. }, [channels, inputs, ..]) = (&node.op, weight.shape.as_slice()) else {
        return Ok(None);
    };
    let Some((mut codes, grid)) = network.codes(node.inputs[0])? else { return Ok(None) };
    let output = network.unquantized_name(id);
    let file = &mut network.file;
    let name = node.name.as_str();
    if geometry.stride != [1, 1] {
        let axes = |values: [i64; 2]| Constant::new(values, [2]);
        let stride = geometry.stride.map(|side| side as i64);
        let parts = [("start", [0, 0]), ("end", [i64::MAX; 2]), ("axes", [2, 3]), ("steps", stride)];
        let parts = parts.map(|(wanted, values)| file.constant(wanted, axes(values)));
        let inputs: Vec<&str> = std::iter::once(&codes).chain(&parts).map(String::as_str).collect();
        codes = file.node("Slice", &inputs, &format!("{name}.read"), Vec::new());
    }
    codes = file.node("Transpose", &[&codes], &format!("{name}.rows"), vec![ints("perm", [0, 2, 3, 1])]);
    let name_of_weight = format!("{name}.weight");
    let integers = integers(file, &name_of_weight, weight, layer);
    let shape = file.constant("shape", Constant::new([*channels as i64, *inputs as i64], [2]));
    let matrix = file.node("Reshape", &[&integers, &shape], &format!("{name_of_weight}.matrix"), Vec::new());
    let matrix = file.node("Transpose", &[&matrix], &name_of_weight, vec![ints("perm", [1, 0])]);
    let [_, zero_point] = constants(grid, file);
    let wanted = format!("{name}.product");
    let sums = file.node("MatMulInteger", &[&codes, &matrix, &zero_point], &wanted, Vec::new());
    let sums = file.node("Cast", &[&sums], &wanted, vec![int("to", DataType::Float as usize)]);
    let scale = Constant::new(layer.bias_scale.iter().copied(), [*channels]);
    let scale = file.constant(&format!("{name}.scale"), scale);
    let mut value = file.node("Mul", &[&sums, &scale], &wanted, Vec::new());
    if let Some(bias) = &layer.bias {
        let bias = bias.iter().zip(&layer.bias_scale).map(|(bias, scale)| *bias as f32 * scale);
        let bias = file.constant(&format!("{name}.bias"), Constant::new(bias, [*channels]));
        value = file.node("Add", &[&value, &bias], &wanted, Vec::new());
    }
    file.add("Transpose", &[&value], &output, vec![ints("perm", [0, 3, 1, 2])]);
    Ok(Some(output))
}
