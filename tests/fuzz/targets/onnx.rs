//! Networks as ONNX files.

use super::{folder, registries, write, Target};
use qdrop_core::params::Params;
use qdrop_onnx::proto::tensor_shape_proto::{dimension::Value as Side, Dimension};
use qdrop_onnx::proto::{type_proto, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use qdrop_onnx::proto::{StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto};
use tempfile::TempDir;

pub const TARGET: Target = Target { name: "onnx", seeds, read, allowed };

/// A message of few bytes may be a structure of some hundred, and of a vector of them there may be two, while it grows.
fn allowed(length: usize) -> usize {
    (1 << 20) + 1024 * length
}

fn tensor(name: &str, dims: &[i64]) -> TensorProto {
    let bytes = dims.iter().product::<i64>() as usize * 4;
    let raw = (0..bytes).map(|i| if i % 4 == 3 { 0x3e } else { i as u8 }).collect();
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: 1, raw_data: Some(raw), ..Default::default() }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let (name, dims) = (name.into(), vec![values.len() as i64]);
    TensorProto { name, dims, data_type: 7, int64_data: values.to_vec(), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("/{output}/{op}"),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: values.to_vec(), ..Default::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(value), ..Default::default() }
}

fn model(initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> Vec<u8> {
    let value = |name: &str, sides: &[i64]| {
        let dim = sides.iter().map(|side| Dimension { value: Some(Side::DimValue(*side)) }).collect();
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim }) };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) });
        ValueInfoProto { name: name.into(), r#type, ..Default::default() }
    };
    let (input, output) = (vec![value("x", &[1, 4, 6, 6])], vec![value("y", &[])]);
    let graph = GraphProto { node, initializer, input, output, ..Default::default() };
    let opset_import = vec![OperatorSetIdProto { version: 18, ..Default::default() }];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() };
    prost::Message::encode_to_vec(&model)
}

fn seeds() -> Vec<Vec<u8>> {
    let layers = model(
        vec![tensor("a.weight", &[4, 2, 3, 3]), tensor("b", &[4]), tensor("c", &[4, 5]), tensor("n", &[4])],
        vec![
            node("Conv", &["x", "a.weight", "b"], "a", vec![ints("pads", &[1, 1, 1, 1]), int("group", 2)]),
            node("BatchNormalization", &["a", "n", "b", "n", "n"], "bn", vec![]),
            node("Sigmoid", &["bn"], "s", vec![]),
            node("Mul", &["bn", "s"], "m", vec![]),
            node("MaxPool", &["m"], "p", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]),
            node("GlobalAveragePool", &["p"], "g", vec![]),
            node("Flatten", &["g"], "f", vec![]),
            node("Gemm", &["f", "c"], "y", vec![]),
        ],
    );
    let shapes = model(
        vec![
            integers("split", &[0, 2, 2, 6, 6]),
            integers("all", &[0, 4, 6, 6]),
            integers("i", &[1]),
            tensor("w", &[4, 4]),
        ],
        vec![
            node("Reshape", &["x", "split"], "a", vec![]),
            node("Transpose", &["a"], "b", vec![ints("perm", &[0, 2, 1, 3, 4])]),
            node("Reshape", &["b", "all"], "c", vec![]),
            node("Shape", &["c"], "shape", vec![]),
            node("Gather", &["shape", "i"], "channels", vec![]),
            node("Transpose", &["c"], "last", vec![ints("perm", &[0, 2, 3, 1])]),
            node("MatMul", &["last", "w"], "m", vec![]),
            node("Gelu", &["m"], "e", vec![]),
            node("Transpose", &["e"], "first", vec![ints("perm", &[0, 3, 1, 2])]),
            node("Slice", &["first", "i", "channels", "i"], "part", vec![]),
            node("Concat", &["part", "c"], "y", vec![int("axis", 1)]),
        ],
    );
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let mut outside = tensor("w", &[4, 1, 1, 1]);
    outside.raw_data = None;
    outside.data_location = 1;
    outside.external_data = vec![entry("location", "data"), entry("offset", "4"), entry("length", "16")];
    let external = model(vec![outside], vec![node("Conv", &["x", "w"], "y", vec![int("group", 4)])]);
    vec![layers, shapes, external]
}

thread_local!(static FOLDER: TempDir = {
    let folder = folder();
    write(&folder, "data", &[0x3e; 64]);
    folder
});

fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let file = write(folder, "net.onnx", bytes);
        let params = Params::new("fuzz", serde_yaml::from_str(&format!("file: {}", file.display())).unwrap());
        let architecture = registries().architectures.get("onnx", "fuzz").unwrap().build().unwrap();
        let read = architecture.graph(&params).and_then(|_| architecture.parameters(&params));
        read.and_then(|_| architecture.files(&params)).is_ok()
    })
}
