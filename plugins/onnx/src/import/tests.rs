//! Small models, operator by operator. That whole networks have the outputs of ONNX Runtime is tested in `tests/onnx_import.rs`.

use super::*;
use crate::proto::tensor_proto::{DataLocation, DataType};
use crate::proto::{tensor_shape_proto, type_proto, AttributeProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::proto::{StringStringEntryProto, TensorShapeProto, TypeProto};
use prost::Message;
use qdrop_core::graph::fold_batch_norm;
use qdrop_core::ops::Padding;
use tempfile::TempDir;

/// Numbers that look random.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i + 1) * (seed + 3)) as f32 * 0.71).sin()).collect()
}

fn floats(name: &str, dims: &[i64], values: Vec<f32>) -> TensorProto {
    let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (name, dims, data_type) = (name.into(), dims.to_vec(), DataType::Float as i32);
    TensorProto { name, dims, data_type, raw_data: Some(raw), ..Default::default() }
}

fn random(name: &str, dims: &[i64]) -> TensorProto {
    floats(name, dims, numbers(dims.iter().product::<i64>() as usize, name.len()))
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let (name, dims, data_type) = (name.into(), vec![values.len() as i64], DataType::Int64 as i32);
    TensorProto { name, dims, data_type, int64_data: values.to_vec(), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: values.to_vec(), ..Default::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(value), ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(value), ..Default::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: Some(value.into()), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: &[AttributeProto]) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("/{output}/{op}"),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute: attribute.to_vec(),
        ..Default::default()
    }
}

/// A value with these sides; 0 stands for the number of images.
fn value(name: &str, sides: &[i64]) -> ValueInfoProto {
    let side = |side: &i64| tensor_shape_proto::Dimension {
        value: Some(match side {
            0 => Side::DimParam("batch".into()),
            side => Side::DimValue(*side),
        }),
    };
    let shape = TensorShapeProto { dim: sides.iter().map(side).collect() };
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}

/// A model from `x`, which has these sides, to `y`.
fn model(sides: &[i64], initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> ModelProto {
    let (input, output) = (vec![value("x", sides)], vec![value("y", &[])]);
    let graph = GraphProto { name: "g".into(), node, initializer, input, output, ..Default::default() };
    let opset_import = vec![OperatorSetIdProto { version: 18, ..Default::default() }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() }
}

fn imported(model: &ModelProto) -> Result<Imported> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("net.onnx");
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    import(&file, None, &Groups::new())
}

fn refused(model: &ModelProto) -> String {
    imported(model).err().expect("the model is refused").to_string()
}

/// The network's output for an image of these numbers.
fn output(model: &ModelProto, image: &[f32]) -> Vec<f32> {
    let Imported { graph, mut parameters } = imported(model).unwrap();
    let graph = fold_batch_norm(graph, &mut parameters).unwrap();
    let [c, h, w] = graph.input_shape().try_into().unwrap();
    let x = Tensor::from_vec(image.to_vec(), (1, c, h, w), &Device::Cpu).unwrap();
    let y = QuantModel::new(graph, parameters, Device::Cpu).forward(&x, Precision::Float).unwrap();
    y[0].flatten_all().unwrap().to_vec1().unwrap()
}

/// The operations of the imported network.
fn operations(model: &ModelProto) -> Vec<&'static str> {
    imported(model).unwrap().graph.nodes().skip(1).map(|(_, node)| node.op.name()).collect()
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs())), "{a:?} {b:?}");
}

/// One function of every pixel of an image of 1 x 1 x 12.
fn pointwise(constants: Vec<TensorProto>, nodes: Vec<NodeProto>, want: impl Fn(f32) -> f32) -> Vec<&'static str> {
    let model = model(&[0, 1, 1, 12], constants, nodes);
    let image: Vec<f32> = (0..12).map(|i| i as f32 * 0.9 - 4.6).collect();
    close(&output(&model, &image), &image.iter().map(|v| want(*v)).collect::<Vec<_>>());
    operations(&model)
}

#[test]
fn functions_of_several_nodes_are_one_operation() {
    let scalar = |name: &str, value| floats(name, &[], vec![value]);
    let silu = [node("Sigmoid", &["x"], "s", &[]), node("Mul", &["s", "x"], "y", &[])];
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    assert_eq!(pointwise(vec![], silu.into(), |v| v * sigmoid(v)), ["silu"]);
    let relu6 = |v: f32| v.clamp(0.0, 6.0);
    let constants = || vec![scalar("three", 3.0), scalar("zero", 0.0), scalar("six", 6.0)];
    let hard_sigmoid = vec![
        node("Add", &["x", "three"], "a", &[]),
        node("Clip", &["a", "zero", "six"], "b", &[]),
        node("Div", &["b", "six"], "y", &[]),
    ];
    assert_eq!(pointwise(constants(), hard_sigmoid.clone(), |v| relu6(v + 3.0) / 6.0), ["hard_sigmoid"]);
    let mut hard_swish = hard_sigmoid;
    hard_swish[2].output = vec!["h".into()];
    hard_swish.push(node("Mul", &["x", "h"], "y", &[]));
    assert_eq!(pointwise(constants(), hard_swish, |v| v * relu6(v + 3.0) / 6.0), ["hard_swish"]);
    let late_division = vec![
        node("Add", &["x", "three"], "a", &[]),
        node("Clip", &["a", "zero", "six"], "b", &[]),
        node("Mul", &["x", "b"], "c", &[]),
        node("Div", &["c", "six"], "y", &[]),
    ];
    assert_eq!(pointwise(constants(), late_division, |v| v * relu6(v + 3.0) / 6.0), ["hard_swish"]);
    let gelu = |v: f32| v * qdrop_core::kernels::math::normal_below(v);
    let constants = vec![scalar("root", 2_f32.sqrt()), scalar("one", 1.0), scalar("half", 0.5)];
    let written_out = vec![
        node("Div", &["x", "root"], "a", &[]),
        node("Erf", &["a"], "b", &[]),
        node("Add", &["b", "one"], "c", &[]),
        node("Mul", &["x", "c"], "d", &[]),
        node("Mul", &["d", "half"], "y", &[]),
    ];
    assert_eq!(pointwise(constants, written_out, gelu), ["gelu"]);
    // Other bounds and factors are not taken for these functions.
    let other = vec![node("Clip", &["x", "zero", "three"], "y", &[])];
    let constants = vec![scalar("zero", 0.0), scalar("three", 3.0)];
    assert_eq!(pointwise(constants, other, |v| v.clamp(0.0, 3.0)), ["clip"]);
}

#[test]
fn layers_have_their_settings() {
    let weight = random("w", &[4, 1, 3, 2]);
    let attributes =
        [ints("strides", &[2, 1]), ints("pads", &[1, 0, 2, 1]), ints("dilations", &[1, 2]), int("group", 2)];
    let conv = model(&[0, 2, 7, 5], vec![weight], vec![node("Conv", &["x", "w"], "y", &attributes)]);
    let graph = imported(&conv).unwrap().graph;
    let Op::Conv2d { out_channels, kernel, geometry, bias } = &graph.node(graph.outputs()[0]).op else {
        unreachable!()
    };
    assert_eq!((*out_channels, *kernel, *bias), (4, [3, 2], true));
    assert_eq!((geometry.stride, geometry.dilation, geometry.groups), ([2, 1], [1, 2], 2));
    assert_eq!(geometry.padding, Padding { top: 1, bottom: 2, left: 0, right: 1 });
    // TensorFlow's padding: of an even size with stride 2, one side more below and to the right.
    let same = |mode: &str| {
        let attributes = [ints("strides", &[2, 2]), text("auto_pad", mode)];
        let model =
            model(&[0, 1, 6, 7], vec![random("w", &[1, 1, 3, 3])], vec![node("Conv", &["x", "w"], "y", &attributes)]);
        let graph = imported(&model).unwrap().graph;
        let Op::Conv2d { geometry, .. } = graph.node(graph.outputs()[0]).op else { unreachable!() };
        geometry.padding
    };
    assert_eq!(same("SAME_UPPER"), Padding { top: 0, bottom: 1, left: 1, right: 1 });
    assert_eq!(same("SAME_LOWER"), Padding { top: 1, bottom: 0, left: 1, right: 1 });

    // y = 2 x B + 3 c, with B transposed or not.
    let (b, c) = (numbers(6, 1), numbers(3, 2));
    let by_rows: Vec<f32> = (0..3).flat_map(|o| [b[o], b[3 + o]]).collect();
    let x = [0.3, -1.7];
    let want: Vec<f32> = (0..3).map(|o| 2.0 * (x[0] * b[o] + x[1] * b[3 + o]) + 3.0 * c[o]).collect();
    for (weight, transposed) in [(floats("b", &[2, 3], b.clone()), 0), (floats("b", &[3, 2], by_rows), 1)] {
        let attributes = [float("alpha", 2.0), float("beta", 3.0), int("transB", transposed)];
        let nodes = vec![node("Flatten", &["x"], "f", &[]), node("Gemm", &["f", "b", "c"], "y", &attributes)];
        let model = model(&[0, 2, 1, 1], vec![weight, floats("c", &[3], c.clone())], nodes);
        close(&output(&model, &x), &want);
        assert_eq!(operations(&model), ["flatten", "linear"]);
    }
}

#[test]
fn constants_after_a_layer_belong_to_it() {
    let constants = vec![
        floats("w", &[2, 3], numbers(6, 1)),
        floats("b", &[3], numbers(3, 2)),
        floats("s", &[1, 3], numbers(3, 3)),
    ];
    let nodes = vec![
        node("Flatten", &["x"], "f", &[]),
        node("MatMul", &["f", "w"], "m", &[]),
        node("Add", &["b", "m"], "a", &[]),
        node("Mul", &["a", "s"], "y", &[]),
    ];
    let model = model(&[0, 2, 1, 1], constants, nodes);
    assert_eq!(operations(&model), ["flatten", "linear"]);
    let (w, b, s, x) = (numbers(6, 1), numbers(3, 2), numbers(3, 3), [0.4, 1.1]);
    let want: Vec<f32> = (0..3).map(|o| (x[0] * w[o] + x[1] * w[3 + o] + b[o]) * s[o]).collect();
    close(&output(&model, &x), &want);
    let bias = &imported(&model).unwrap().parameters["m.bias"];
    close(&bias.to_vec1().unwrap(), &(0..3).map(|o| b[o] * s[o]).collect::<Vec<_>>());
}

#[test]
fn zeros_before_a_convolution_are_its_padding() {
    let nodes =
        vec![node("Pad", &["x", "sides"], "p", &[]), node("Conv", &["p", "w"], "y", &[ints("pads", &[1, 1, 1, 1])])];
    let constants = vec![integers("sides", &[0, 0, 0, 1, 0, 0, 2, 3]), random("w", &[2, 1, 3, 3])];
    let model = model(&[0, 1, 4, 4], constants, nodes);
    assert_eq!(operations(&model), ["conv2d"]);
    let graph = imported(&model).unwrap().graph;
    assert_eq!(graph.node(graph.outputs()[0]).shape, [2, 6, 8]);
}

#[test]
fn channels_last_is_a_matter_of_axes() {
    // The input is channels last, and a matrix product of its last axis is a 1 x 1 convolution.
    let nodes = vec![
        node("MatMul", &["x", "w"], "m", &[]),
        node("LayerNormalization", &["m", "g"], "n", &[]),
        node("Transpose", &["n"], "t", &[ints("perm", &[0, 3, 1, 2])]),
        node("GlobalAveragePool", &["t"], "p", &[]),
        node("Reshape", &["p", "shape"], "y", &[]),
    ];
    let constants = vec![random("w", &[3, 2]), random("g", &[2]), integers("shape", &[-1, 2])];
    let model = model(&[0, 8, 5, 3], constants, nodes);
    assert_eq!(operations(&model), ["conv2d", "layer_norm", "global_average_pool", "flatten"]);
    assert_eq!(imported(&model).unwrap().graph.input_shape(), [3, 8, 5]);
}

#[test]
fn shapes_are_computed() {
    // A channel shuffle as an older exporter writes it, with the number of images in the shapes.
    let nodes = vec![
        node("Shape", &["x"], "shape", &[]),
        node("Gather", &["shape", "first"], "n", &[int("axis", 0)]),
        node("Gather", &["shape", "second"], "c", &[int("axis", 0)]),
        node("Div", &["c", "two"], "half", &[]),
        node("Concat", &["n", "two", "half", "side", "side"], "split", &[int("axis", 0)]),
        node("Reshape", &["x", "split"], "a", &[]),
        node("Transpose", &["a"], "b", &[ints("perm", &[0, 2, 1, 3, 4])]),
        node("Concat", &["n", "all", "side", "side"], "joined", &[int("axis", 0)]),
        node("Reshape", &["b", "joined"], "y", &[]),
    ];
    let constants = vec![
        integers("first", &[0]),
        integers("second", &[1]),
        integers("two", &[2]),
        integers("side", &[1]),
        integers("all", &[-1]),
    ];
    let model = model(&[0, 6, 1, 1], constants, nodes);
    assert_eq!(operations(&model), ["shuffle_channels"]);
    assert_eq!(output(&model, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

/// A view with strides (`as_strided`) as an exporter writes it: the numbers of all elements are computed from the number of
/// images.
#[test]
fn a_view_of_all_elements_in_their_order_changes_nothing() {
    let view = [
        node("Reshape", &["x", "all"], "row", &[]),
        node("Gather", &["row", "numbers"], "view", &[int("axis", 0)]),
        node("Relu", &["view"], "y", &[]),
    ];
    let computed = [
        node("Shape", &["x"], "shape", &[int("start", 0), int("end", 1)]),
        node("Squeeze", &["shape"], "n", &[]),
        node("Range", &["zero", "n", "one"], "image", &[]),
        node("Mul", &["image", "stride"], "first", &[]),
        node("Unsqueeze", &["first", "axes"], "firsts", &[]),
        node("Add", &["firsts", "within"], "moved", &[]),
        node("Add", &["moved", "zero"], "numbers", &[]),
    ];
    let any = |within: &[i64], stride: i64| {
        let constants = [("all", -1), ("zero", 0), ("one", 1)].map(|(n, v)| integers(n, &[v]));
        let stride = TensorProto { dims: Vec::new(), ..integers("stride", &[stride]) };
        let within = TensorProto { dims: vec![1, 6, 1, 1], ..integers("within", within) };
        let constants = [&constants[..], &[integers("axes", &[1, 2, 3]), within, stride]].concat();
        model(&[0, 6, 1, 1], constants, [&computed[..], &view[..]].concat())
    };
    let fixed = |numbers: Vec<i64>| {
        let numbers = TensorProto { dims: vec![2, 6, 1, 1], ..integers("numbers", &numbers) };
        model(&[2, 6, 1, 1], vec![integers("all", &[-1]), numbers], view.to_vec())
    };
    for model in [any(&[0, 1, 2, 3, 4, 5], 6), fixed((0..12).collect())] {
        assert_eq!(operations(&model), ["relu"]);
        assert_eq!(output(&model, &[0.5, 1.0, -2.0, 3.0, 4.0, -5.0]), [0.5, 1.0, 0.0, 3.0, 4.0, 0.0]);
    }
    for model in [any(&[1, 0, 2, 3, 4, 5], 6), any(&[0, 1, 2, 3, 4, 5], 5), fixed((0..12).rev().collect())] {
        let message = refused(&model);
        assert!(message.contains("'/view/Gather'") && message.contains("in another order"), "{message}");
    }
    let mut lower_rank = any(&[0, 1, 2, 3, 4, 5], 6);
    lower_rank
        .graph
        .as_mut()
        .unwrap()
        .initializer
        .iter_mut()
        .filter(|t| t.name == "within")
        .for_each(|t| t.dims = vec![6, 1, 1]);
    assert_eq!(operations(&lower_rank), ["relu"]);
    // Only the first image; the numbers of the images as the last axis; no elements.
    let mut first = any(&[0, 1, 2, 3, 4, 5], 6);
    let nodes = &mut first.graph.as_mut().unwrap().node;
    nodes.insert(3, node("Slice", &["image", "zero", "one", "zero"], "part", &[]));
    nodes[4].input[0] = "part".into();
    assert!(refused(&first).contains("computes with the numbers of images"), "{}", refused(&first));
    let mut last = any(&[0, 1, 2, 3, 4, 5], 6);
    let constants = &mut last.graph.as_mut().unwrap().initializer;
    constants.iter_mut().filter(|t| t.name == "axes").for_each(|t| *t = integers("axes", &[0, 1, 2]));
    assert!(refused(&last).contains("computes with the numbers of images"), "{}", refused(&last));
    let mut none = fixed(Vec::new());
    none.graph.as_mut().unwrap().initializer[1].dims = vec![0, 6, 1, 1];
    assert!(refused(&none).contains("in another order"), "{}", refused(&none));
    let row =
        model(&[0, 6, 1, 1], vec![integers("all", &[-1])], vec![view[0].clone(), node("Relu", &["row"], "y", &[])]);
    assert!(refused(&row).contains("keep the axis of the images"), "{}", refused(&row));
}

#[test]
fn a_gate_may_come_from_fully_connected_layers() {
    let nodes = vec![
        node("GlobalAveragePool", &["x"], "p", &[]),
        node("Flatten", &["p"], "f", &[]),
        node("Gemm", &["f", "w"], "g", &[]),
        node("Sigmoid", &["g"], "s", &[]),
        node("Reshape", &["s", "shape"], "r", &[]),
        node("Mul", &["x", "r"], "y", &[]),
    ];
    let model = model(&[0, 2, 3, 3], vec![random("w", &[2, 2]), integers("shape", &[0, 2, 1, 1])], nodes);
    assert_eq!(operations(&model), ["global_average_pool", "conv2d", "sigmoid", "mul"]);
}

#[test]
fn a_fixed_number_of_images_is_no_obstacle() {
    let nodes = vec![node("Reshape", &["x", "shape"], "y", &[])];
    let fixed = model(&[4, 2, 1, 3], vec![integers("shape", &[4, 6])], nodes.clone());
    assert_eq!(operations(&fixed), ["flatten"]);
    let mixed = model(&[0, 2, 1, 3], vec![integers("shape", &[4, 6])], nodes);
    assert!(refused(&mixed).contains("for each image the shape"), "{}", refused(&mixed));
}

#[test]
fn what_is_not_understood_is_named() {
    let one = |op: &str, attributes: &[AttributeProto]| {
        refused(&model(&[0, 2, 3, 3], vec![], vec![node(op, &["x"], "y", attributes)]))
    };
    let says = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(
        one("Einsum", &[]),
        &["net.onnx", "node '/y/Einsum' (Einsum) is an operator that is not understood", "as a plugin"],
    );
    says(one("Softmax", &[]), &["(Softmax)", "export the network without it"]);
    says(one("MaxPool", &[ints("kernel_shape", &[2])]), &["'/y/MaxPool'", "kernel_shape [2]"]);
    says(one("MaxPool", &[ints("kernel_shape", &[9, 9])]), &["does not fit"]);
    says(one("Transpose", &[ints("perm", &[1, 0, 2, 3])]), &["images stay first"]);
    says(one("Gelu", &[text("approximate", "tanh")]), &["approximated by 'tanh'"]);
    says(one("HardSigmoid", &[]), &["slope 0.2"]);
    says(one("Erf", &[]), &["only understood as a part of GELU"]);
    says(one("ReduceMean", &[ints("axes", &[1])]), &["rows and columns"]);
    let missing = model(&[0, 1, 1, 1], vec![], vec![node("Relu", &["nothing"], "y", &[])]);
    says(refused(&missing), &["reads 'nothing', which nothing before it computes"]);
    let no_output = model(&[0, 1, 1, 1], vec![], vec![node("Relu", &["x"], "z", &[])]);
    says(refused(&no_output), &["output 'y' is not computed from the image"]);
    let open = model(&[0, 3, 0, 0], vec![], vec![node("Relu", &["x"], "y", &[])]);
    says(refused(&open), &["input 'x' leaves the size of images open", "image_size: 224"]);
    let mut weight = random("w", &[1, 1, 1, 1]);
    weight.raw_data = Some(f32::NAN.to_le_bytes().to_vec());
    let nan = model(&[0, 1, 1, 1], vec![weight.clone()], vec![node("Conv", &["x", "w"], "y", &[])]);
    says(refused(&nan), &["y.weight", "holds NaN at element 0"]);
    weight.raw_data = Some(vec![0; 3]);
    let short = model(&[0, 1, 1, 1], vec![weight], vec![node("Conv", &["x", "w"], "y", &[])]);
    says(refused(&short), &["tensor 'w' has 3 bytes where 4 are expected"]);
}

#[test]
fn versions_are_checked() {
    let mut new = model(&[0, 1, 1, 1], vec![], vec![node("Relu", &["x"], "y", &[])]);
    assert!(imported(&new).is_ok());
    new.opset_import[0].version = 99;
    assert!(refused(&new).contains("version 99 of the ONNX operators"), "{}", refused(&new));
    new.opset_import[0].version = 18;
    new.ir_version = 99;
    assert!(refused(&new).contains("version 99 of the ONNX format"), "{}", refused(&new));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("net.onnx");
    new.ir_version = 8;
    let bytes = new.encode_to_vec();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        let error = import(&file, None, &Groups::new()).err().unwrap().to_string();
        assert!(error.contains("is no ONNX model"), "{error}");
    }
}

#[test]
fn large_tensors_may_lie_in_a_file_beside() {
    let values = numbers(8, 1);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let external = |location: &str, offset: &str| TensorProto {
        raw_data: None,
        data_location: DataLocation::External as i32,
        external_data: vec![entry("location", location), entry("offset", offset), entry("length", "32")],
        ..floats("w", &[4, 2, 1, 1], Vec::new())
    };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("net.onnx");
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.path().join("net.data"), [vec![0; 16], bytes].concat()).unwrap();
    let import_with = |location: &str, offset: &str| {
        let model = model(&[0, 2, 1, 1], vec![external(location, offset)], vec![node("Conv", &["x", "w"], "y", &[])]);
        std::fs::write(&file, model.encode_to_vec()).unwrap();
        import(&file, None, &Groups::new())
    };
    let imported = import_with("net.data", "16").unwrap();
    assert_eq!(imported.parameters["y.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
    assert_eq!(OnnxFile::read(&file).unwrap().files().unwrap(), [file.clone(), folder.path().join("net.data")]);
    let error = |location: &str, offset: &str| import_with(location, offset).err().unwrap().to_string();
    assert!(error("net.data", "17").contains("is that file complete?"), "{}", error("net.data", "17"));
    assert!(error("net.data", "99999999999999999999").contains("offset"));
    assert!(error("none.data", "0").contains("cannot read"), "{}", error("none.data", "0"));
    for outside in ["../net.data", "/etc/passwd", "a/../../b", ""] {
        assert!(error(outside, "0").contains("not in the model's folder"), "{}", error(outside, "0"));
    }
}

#[test]
fn units_can_be_set_by_the_names_of_their_layers() {
    let constants = ["a", "b", "c", "d"].map(|name| random(&format!("{name}.weight"), &[1, 1, 1, 1]));
    let nodes = vec![
        node("Conv", &["x", "a.weight"], "va", &[]),
        node("Conv", &["va", "b.weight"], "vb", &[]),
        node("Relu", &["vb"], "r", &[]),
        node("Conv", &["r", "c.weight"], "vc", &[]),
        node("Conv", &["vc", "d.weight"], "y", &[]),
    ];
    let model = model(&[0, 1, 2, 2], constants.into(), nodes);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("net.onnx");
    std::fs::write(&file, model.encode_to_vec()).unwrap();
    let units = |groups: &[(&str, &[&str])]| -> Result<Vec<String>> {
        let owned =
            groups.iter().map(|(name, layers)| (name.to_string(), layers.iter().map(|l| l.to_string()).collect()));
        let graph = import(&file, None, &owned.collect())?.graph;
        let list = |unit: &qdrop_core::graph::Unit| {
            let nodes: Vec<&str> = unit.nodes().iter().map(|id| graph.node(*id).name.as_str()).collect();
            format!("{}: {}", unit.name, nodes.join(" "))
        };
        Ok(graph.units().iter().map(list).collect())
    };
    assert_eq!(units(&[]).unwrap(), ["a: a", "b: b r.Relu", "c: c", "d: d"]);
    assert_eq!(units(&[("middle", &["b", "c"])]).unwrap(), ["a: a", "middle: b r.Relu c", "d: d"]);
    let error = units(&[("middle", &["x*"])]).unwrap_err().to_string();
    assert!(error.contains("model.architecture.params.units.middle: 'x*' matches no layer"), "{error}");
    let error = units(&[("one", &["a", "b"]), ("two", &["b"])]).unwrap_err().to_string();
    assert!(error.contains("'b' is in two units"), "{error}");
}

/// Batch normalization that PyTorch has not folded is folded with the epsilon that PyTorch has.
#[test]
fn epsilons_are_the_decimal_numbers_that_were_meant() {
    let channels = [1.0, 2.0].to_vec();
    let constants = ["g", "b", "m", "v"].map(|name| floats(name, &[2], channels.clone()));
    let normalization = node("BatchNormalization", &["x", "g", "b", "m", "v"], "y", &[float("epsilon", 1e-3)]);
    let network = imported(&model(&[0, 2, 1, 1], constants.to_vec(), vec![normalization])).unwrap();
    let epsilons: Vec<f64> = network
        .graph
        .nodes()
        .filter_map(|(_, node)| match node.op {
            Op::BatchNorm { eps } => Some(eps),
            _ => None,
        })
        .collect();
    assert_eq!(epsilons, [1e-3]);
}
