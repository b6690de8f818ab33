//! Exported ONNX files, read without onnxruntime: their nodes, and what their constants compute.

use crate::onnx_case::{export, quantized, random, Scales};
use crate::support::*;
use prost::Message;
use qdrop_core::model::{QuantModel, QuantSite};
use qdrop_core::ops::Padding;
use qdrop_core::prelude::*;
use qdrop_onnx::proto::tensor_proto::DataType;
use qdrop_onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto};
use std::collections::HashMap;

/// A constant value: its shape, and its numbers as 64-bit floats, which hold all of them exactly.
#[derive(Debug, Clone, PartialEq)]
struct Values {
    shape: Vec<usize>,
    numbers: Vec<f64>,
}

fn file(exported: &ExportedNetwork) -> ModelProto {
    ModelProto::decode(exported.files[0].content.as_slice()).unwrap()
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> &'a AttributeProto {
    node.attribute.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{} has no {name}", node.name))
}

/// `f` of each pair of elements; sides of 1 are repeated.
fn broadcast(a: &Values, b: &Values, f: impl Fn(f64, f64) -> f64) -> Values {
    let rank = a.shape.len().max(b.shape.len());
    let side = |v: &Values, axis: usize| (axis + v.shape.len()).checked_sub(rank).map_or(1, |axis| v.shape[axis]);
    let shape: Vec<usize> = (0..rank).map(|axis| side(a, axis).max(side(b, axis))).collect();
    let at = |v: &Values, index: usize| {
        let (mut rest, mut place, mut stride) = (index, 0, 1);
        for axis in (0..rank).rev() {
            let i = rest % shape[axis];
            rest /= shape[axis];
            if side(v, axis) > 1 {
                place += i * stride;
            }
            stride *= side(v, axis);
        }
        v.numbers[place]
    };
    let count = shape.iter().product();
    Values { numbers: (0..count).map(|i| f(at(a, i), at(b, i))).collect(), shape }
}

/// Everything in the file that does not depend on the input, as a runtime computes it when it loads the file.
fn constants(graph: &GraphProto) -> HashMap<String, Values> {
    let mut known = HashMap::new();
    for tensor in &graph.initializer {
        assert!(graph.node.iter().any(|node| node.input.contains(&tensor.name)), "nothing reads {}", tensor.name);
        let raw = tensor.raw_data.as_deref().unwrap();
        let numbers: Vec<f64> = match DataType::try_from(tensor.data_type).unwrap() {
            DataType::Float => raw.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            DataType::Int32 => raw.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            DataType::Int64 => raw.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            DataType::Uint16 => raw.chunks(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            DataType::Uint8 => raw.iter().map(|b| f64::from(*b)).collect(),
            DataType::Int8 => raw.iter().map(|b| f64::from(*b as i8)).collect(),
            other => panic!("{}: {other:?}", tensor.name),
        };
        let shape: Vec<usize> = tensor.dims.iter().map(|side| *side as usize).collect();
        assert_eq!(numbers.len(), shape.iter().product::<usize>(), "{}", tensor.name);
        assert!(known.insert(tensor.name.clone(), Values { shape, numbers }).is_none(), "{} twice", tensor.name);
    }
    for node in &graph.node {
        let inputs: Option<Vec<&Values>> = node.input.iter().map(|name| known.get(name)).collect();
        let Some(inputs) = inputs else { continue };
        let value = computed(node, &inputs);
        assert!(known.insert(node.output[0].clone(), value).is_none(), "{} twice", node.output[0]);
    }
    known
}

fn computed(node: &NodeProto, inputs: &[&Values]) -> Values {
    let bits = |f: fn(u8, u8) -> u8| broadcast(inputs[0], inputs[1], |a, b| f(a as u8, b as u8).into());
    let single = |v: f64| f64::from(v as f32);
    match node.op_type.as_str() {
        "BitShift" => match attribute(node, "direction").s() {
            b"RIGHT" => bits(|a, b| a >> b),
            b"LEFT" => bits(|a, b| a << b),
            other => panic!("{other:?}"),
        },
        "BitwiseAnd" => bits(|a, b| a & b),
        "BitwiseOr" => bits(|a, b| a | b),
        "Reshape" => {
            let count = inputs[0].numbers.len();
            let side = |s: &f64| if *s < 0.0 { count } else { *s as usize };
            Values { shape: inputs[1].numbers.iter().map(side).collect(), numbers: inputs[0].numbers.clone() }
        }
        "Transpose" => {
            let order: Vec<usize> = attribute(node, "perm").ints.iter().map(|axis| *axis as usize).collect();
            let old = &inputs[0].shape;
            let shape: Vec<usize> = order.iter().map(|axis| old[*axis]).collect();
            let place = |mut index: usize| {
                let mut of_axis = vec![0; old.len()];
                for axis in order.iter().rev() {
                    of_axis[*axis] = index % old[*axis];
                    index /= old[*axis];
                }
                of_axis.iter().zip(old).fold(0, |place, (i, side)| place * side + i)
            };
            let numbers = (0..inputs[0].numbers.len()).map(|i| inputs[0].numbers[place(i)]).collect();
            Values { shape, numbers }
        }
        "Slice" => {
            let numbers = inputs[0].numbers[inputs[1].numbers[0] as usize..inputs[2].numbers[0] as usize].to_vec();
            Values { shape: vec![numbers.len()], numbers }
        }
        "Cast" => {
            let kind = DataType::try_from(attribute(node, "to").i() as i32).unwrap();
            let bounds = match kind {
                DataType::Int8 => -128.0..=127.0,
                DataType::Int32 | DataType::Float => -2e9..=2e9,
                other => panic!("{other:?}"),
            };
            assert!(inputs[0].numbers.iter().all(|v| bounds.contains(v)), "{} does not fit {kind:?}", node.name);
            inputs[0].clone()
        }
        "Sub" => broadcast(inputs[0], inputs[1], |a, b| single(a - b)),
        "Mul" => broadcast(inputs[0], inputs[1], |a, b| single(a * b)),
        "DequantizeLinear" => {
            assert_eq!(attribute(node, "axis").i(), 0);
            let mut column = vec![1; inputs[0].shape.len()];
            column[0] = inputs[1].numbers.len();
            let along = |v: &Values| Values { shape: column.clone(), numbers: v.numbers.clone() };
            let steps = match inputs.get(2) {
                Some(zero) => broadcast(inputs[0], &along(zero), |a, b| a - b),
                None => inputs[0].clone(),
            };
            broadcast(&steps, &along(inputs[1]), |a, b| single(a * b))
        }
        other => panic!("{}: {other} of constants", node.name),
    }
}

fn floats(values: &Values) -> Vec<f32> {
    values.numbers.iter().map(|v| *v as f32).collect()
}

fn operators(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(|node| node.op_type.as_str()).collect()
}

/// Three convolutions, of which the second one reads a quantized value and its value is quantized.
fn small() -> QuantModel {
    let mut b = GraphBuilder::new([3, 9, 9]);
    let image = b.input();
    let out = b
        .unit("unit", |b| {
            let x = b.conv2d("first", image, Conv2d::new(5, 3).bias())?;
            let x = b.relu("relu", x)?;
            let x = b.conv2d("second", x, Conv2d::new(7, 3).bias())?;
            let x = b.relu6("relu6", x)?;
            b.conv2d("third", x, Conv2d::new(3, 1).bias())
        })
        .unwrap();
    random(b.finish(out).unwrap())
}

fn images(model: &QuantModel, count: usize) -> Tensor {
    noise(&[&[count], model.graph().input_shape()].concat(), 4)
}

/// Gives the second layer another weight quantizer.
fn with_weight(mut model: QuantModel, spec: QuantSpec, [min, max]: [f32; 2]) -> QuantModel {
    let second = model.graph().find("second").unwrap();
    let channels = if spec.granularity == Granularity::PerTensor { 1 } else { 7 };
    let mut quantizer = quantizer("fixed", &spec);
    quantizer.set_range(&Range { min: vec![min; channels], max: vec![max; channels] }, &Device::Cpu).unwrap();
    model.set_weight_quantizer(second, QuantSite { name: "second".into(), quantizer });
    model.round_biases().unwrap();
    model
}

#[test]
fn files_hold_the_weights_and_biases_of_the_network_in_their_bits() {
    let float = small();
    let images = images(&float, 2);
    for bits in [1, 2, 3, 4, 5, 6, 7, 8, 11] {
        for (symmetric, granularity) in
            [(false, Granularity::PerAxis(0)), (true, Granularity::PerAxis(0)), (false, Granularity::PerTensor)]
        {
            let model = quantized(float.float_copy(), [4, 4], &images, Scales::Any);
            let model = with_weight(model, spec(bits, symmetric, granularity), [-0.35, 0.4]);
            let second = model.graph().find("second").unwrap();
            let what = format!("{bits} bits, symmetric: {symmetric}, {granularity:?}");
            let hard =
                model.weight_site(second).unwrap().quantizer.fake_quantize(model.weight(second).unwrap()).unwrap();
            for params in ["{}", "{exact: true}"] {
                let file = file(&export(&model, "onnx", params));
                let graph = file.graph.unwrap();
                let known = constants(&graph);
                let is_second =
                    |node: &&NodeProto| node.op_type == "Conv" && node.input[1].starts_with("second.weight");
                let layer = graph.node.iter().find(is_second).unwrap();
                let weight = &known[&layer.input[1]];
                assert_eq!(weight.shape, hard.dims(), "{what}, {params}");
                if params == "{}" || bits > 8 {
                    assert_eq!(floats(weight), vec(&hard), "{what}, {params}");
                    assert_eq!(floats(&known[&layer.input[2]]), vec(model.bias(second).unwrap()), "{what}, {params}");
                } else {
                    // Integers, with what their sums are multiplied by.
                    let site = model.weight_site(second).unwrap().quantizer.qparams().unwrap();
                    let scale = |i: usize| site.scale[if site.scale.len() == 1 { 0 } else { i / (5 * 9) }];
                    let steps = vec(&hard).iter().enumerate().map(|(i, w)| (w / scale(i)).round()).collect::<Vec<_>>();
                    assert_eq!(floats(weight), steps, "{what}");
                    let relu = model.activation_site(model.graph().find("relu").unwrap()).unwrap();
                    let read = relu.quantizer.qparams().unwrap().scale[0];
                    let scales = (0..7).map(|c| scale(c * 5 * 9) * read).collect::<Vec<_>>();
                    assert_eq!(floats(&known["second.scale"]), scales, "{what}");
                    assert_eq!(floats(&known["second.bias"]), vec(model.bias(second).unwrap()), "{what}");
                    assert_eq!(known["second.scale"].shape, [7, 1, 1], "{what}");
                }
                let stored = |name: &str| name.starts_with("second.weight.packed") || name == "second.weight.codes";
                let packed = graph.initializer.iter().filter(|t| stored(&t.name) || t.name == "second.weight.int8");
                let bytes: usize = packed.map(|t| t.raw_data().len()).sum();
                let count = 7 * 5 * 9;
                let needed = if bits > 8 { 2 * count } else { (count * bits as usize).div_ceil(8) };
                // Each of at most three parts ends with a byte that need not be full.
                assert!((needed..needed + 3).contains(&bytes), "{what}, {params}: {bytes} bytes, {needed} needed");
            }
        }
    }
}

#[test]
fn layers_between_quantizers_are_in_integers_and_the_file_says_what_it_is() {
    let float = small();
    let model = quantized(float.float_copy(), [3, 4], &images(&float, 2), Scales::Any);
    let exported = export(&model, "onnx", "{}");
    assert_eq!(exported.files[0].extension, "onnx");
    let file = self::file(&exported);
    assert_eq!((file.ir_version, file.opset_import[0].version, file.opset_import.len()), (8, 18, 1));
    assert_eq!(file.producer_name, "qdrop");
    let metadata: Vec<(&str, &str)> = file.metadata_props.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
    let recipe = qdrop::recipes::load("demo").unwrap().to_yaml().unwrap();
    let wanted =
        [("qdrop.bits", "w4a4"), ("qdrop.pattern", "integer"), ("qdrop.recipe", &recipe), ("qdrop.version", "1.2.3")];
    assert_eq!(metadata, wanted);
    let graph = file.graph.unwrap();
    assert_eq!((graph.input[0].name.as_str(), graph.output[0].name.as_str()), ("input", "output"));
    // The activation functions are bounds of the codes: nothing is left of them.
    let known = constants(&graph);
    let depends = |node: &&NodeProto| !known.contains_key(&node.output[0]);
    let run_time: Vec<&str> = graph.node.iter().filter(depends).map(|node| node.op_type.as_str()).collect();
    let site = ["QuantizeLinear", "Clip", "DequantizeLinear"];
    // The last site has 8 bits, which need no limits. Its codes are multiplied as they are by the third weight.
    let product = ["Transpose", "MatMulInteger", "Cast", "Mul", "Add", "Transpose"];
    // The image is divided into integers and a rest.
    let image = ["Div", "Round", "Conv", "Round", "Sub", "Conv", "Add", "Mul", "Add"];
    assert_eq!(run_time, [&image[..], &site, &["Conv"], &site[..1], &product].concat());
    let notes = exported.notes.join("\n");
    assert!(notes.contains("'first'") && !notes.contains("'third'") && !notes.contains("'second'"), "{notes}");
    // The matrix has the weight's integers, and the sums' scale is that of the weight times that of the codes.
    let [second, third] = ["relu6", "third"].map(|name| model.graph().find(name).unwrap());
    let of_input = model.activation_site(second).unwrap().quantizer.qparams().unwrap().scale[0];
    let hard = model.weight_site(third).unwrap().quantizer.fake_quantize(model.weight(third).unwrap()).unwrap();
    let (matrix, scale) = (&known["third.weight"], &known["third.scale"]);
    assert_eq!(matrix.shape, [7, 3]);
    for (i, w) in vec(&hard).into_iter().enumerate() {
        let (output, input) = (i / 7, i % 7);
        let got = matrix.numbers[3 * input + output] * scale.numbers[output] / f64::from(of_input);
        assert!((got - f64::from(w)).abs() < 1e-6, "{got} where {w} is expected");
    }
    let bias = &known["third.bias"].numbers;
    assert_eq!(bias.iter().map(|b| *b as f32).collect::<Vec<_>>(), vec(model.bias(third).unwrap()));
    let exact = export(&model, "onnx", "{exact: true}");
    assert_eq!((exact.files[0].extension.as_str(), exact.notes.len()), ("exact.onnx", 0));
    let exact = self::file(&exact);
    assert_eq!(exact.metadata_props[1].value, "exact");
    let graph = exact.graph.unwrap();
    assert!(operators(&graph).iter().all(|o| !o.contains("Quantize")), "{:?}", operators(&graph));
    let float_file = self::file(&export(&float, "onnx-float", "{}"));
    let graph = float_file.graph.unwrap();
    assert_eq!(operators(&graph), ["Conv", "Relu", "Conv", "Clip", "Conv"]);
    assert_eq!(constants(&graph)["second.weight"].numbers.len(), 7 * 5 * 9);
}

#[test]
fn the_input_and_the_outputs_keep_their_names() {
    let mut b = GraphBuilder::new([2, 4, 4]);
    let image = b.input();
    let x = b.unit("unit", |b| b.conv2d("logits", image, Conv2d::new(3, 1).bias())).unwrap();
    let graph = b.finish_with_outputs(&[x, x]).unwrap();
    let ends = qdrop_core::graph::Ends { input: "logits".into(), outputs: vec!["a b".into(), "c".into()] };
    let model = random(graph.named(ends).unwrap());
    let graph = file(&export(&model, "onnx-float", "{}")).graph.unwrap();
    let names = |values: &[qdrop_onnx::proto::ValueInfoProto]| -> Vec<String> {
        values.iter().map(|value| value.name.clone()).collect()
    };
    assert_eq!((names(&graph.input), names(&graph.output)), (vec!["logits".into()], vec!["a b".into(), "c".into()]));
    assert_eq!(operators(&graph), ["Conv", "Identity"]);
    assert_eq!((graph.node[0].input[0].as_str(), graph.node[0].output[0].as_str()), ("logits", "a b"));
}

#[test]
fn what_cannot_be_written_is_named() {
    let float = small();
    let mut model = quantized(float.float_copy(), [4, 4], &images(&float, 2), Scales::Any);
    let relu = model.graph().find("relu").unwrap();
    // AdaRound learns roundings of weights; it does not say what it computes of values.
    let mut quantizer = quantizer("adaround", &spec(4, false, Granularity::PerTensor));
    quantizer.set_range(&Range { min: vec![0.0], max: vec![1.0] }, &Device::Cpu).unwrap();
    model.set_activation_quantizer(relu, QuantSite { name: "first".into(), quantizer });
    let params = Params::none("test");
    let exporter = registries().exporters.get("onnx", "test").unwrap().build(&params).unwrap();
    let recipe = &qdrop::recipes::load("demo").unwrap();
    let (bits, version, summary, float_weights) = ("w4a4", "1", None, None);
    let request = ExportRequest { model: &model, recipe, bits, version, summary, float_weights };
    let error = exporter.export(&request).unwrap_err().to_string();
    assert!(error.contains("first") && error.contains("nearest point of its grid"), "{error}");
    let unknown = Params::new("", serde_yaml::from_str("{exakt: true}").unwrap());
    let error = registries().exporters.get("onnx", "test").unwrap().build(&unknown).err().unwrap().to_string();
    assert!(error.contains("exakt: unknown field `exakt`, expected `exact`"), "{error}");
}

#[test]
fn padding_belongs_to_the_convolutions_that_read_it() {
    let mut b = GraphBuilder::new([2, 5, 5]);
    let image = b.input();
    let out = b
        .unit("unit", |b| {
            let x = b.conv2d("first", image, Conv2d::new(2, 1).bias())?;
            let x = b.pad("pad", x, Padding { top: 0, bottom: 1, left: 2, right: 3 })?;
            b.conv2d("second", x, Conv2d::new(2, 3).padding(1).bias())
        })
        .unwrap();
    let model = random(b.finish(out).unwrap());
    let graph = file(&export(&model, "onnx-float", "{}")).graph.unwrap();
    assert_eq!(operators(&graph), ["Conv", "Conv"]);
    assert_eq!(attribute(&graph.node[1], "pads").ints, [1, 3, 2, 4]);
}
