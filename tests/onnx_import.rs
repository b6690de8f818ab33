//! Networks of torchvision as ONNX files, against onnxruntime; and a network without a recipe, from its file to a result.

use crate::onnx_again::Again;
use crate::support::*;
use qdrop_core::prelude::*;
use qdrop_onnx::proto::tensor_shape_proto::{dimension::Value as Side, Dimension};
use qdrop_onnx::proto::{type_proto, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use qdrop_onnx::proto::{TensorProto, TensorShapeProto, TypeProto, ValueInfoProto};
use std::collections::HashMap;
use std::path::Path;

/// The networks and the most units that they may have. `QDROP_ONNX_NETWORKS=all` takes all of them, a list takes those;
/// without it the first ones are taken, one for each kind of unit.
const NETWORKS: [(&str, usize); 14] = [
    ("mobilenet_v3_small", 15),
    ("shufflenet_v2_x1_0", 19),
    ("regnet_y_400mf", 18),
    ("squeezenet1_1", 18),
    ("resnet18", 10),
    ("resnet50", 18),
    ("mobilenet_v2", 20),
    ("efficientnet_b0", 19),
    ("mnasnet1_0", 20),
    ("densenet121", 121),
    ("googlenet", 13),
    ("inception_v3", 17),
    ("vgg11_bn", 11),
    ("convnext_tiny", 23),
];
const BY_DEFAULT: usize = 4;

#[test]
fn networks_of_torchvision_have_the_outputs_of_onnxruntime() {
    let asked = std::env::var("QDROP_ONNX_NETWORKS").unwrap_or_default();
    let wanted = |i: usize, name: &str| match asked.as_str() {
        "" => i < BY_DEFAULT,
        "all" => true,
        list => list.split(',').any(|n| n == name),
    };
    let folder = tempfile::tempdir().unwrap();
    let again = Again::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/onnx_models.py");
    let packages = ["torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "safetensors"];
    let Some(mut python) = python(&packages) else { return };
    let networks: Vec<_> = NETWORKS.iter().enumerate().filter(|(i, (name, _))| wanted(*i, name)).collect();
    let names = networks.iter().map(|(_, (name, _))| name);
    let run = python.arg(&script).arg(folder.path()).args(names).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    for (_, (name, most)) in networks {
        let mut both = Vec::new();
        for exporter in ["new", "old"] {
            let file = folder.path().join(format!("{name}-{exporter}.onnx"));
            let golden = candle_core::safetensors::load(file.with_extension("safetensors"), &Device::Cpu).unwrap();
            let (model, units) = imported(&file);
            assert!(units.len() <= *most, "{name}: {units:?}");
            let got = vec(&model.forward(&golden["images"], Precision::Float).unwrap()[0]);
            let want = vec(&golden["logits"]);
            let largest = want.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
            let error = got.iter().zip(&want).fold(0.0_f32, |a, (x, y)| a.max((x - y).abs())) / largest;
            assert!(error < 1e-5, "{name}, {exporter} exporter: relative difference {error}");
            both.push(units);
            if exporter == "new" {
                again.add(name, &file);
            }
        }
        assert_eq!(both[0], both[1], "{name}: both exporters describe the same units");
    }
    again.check();
}

/// The float network of a file, and the names of its units.
fn imported(file: &Path) -> (QuantModel, Vec<String>) {
    let architecture = registries().architectures.get("onnx", "test").unwrap().build().unwrap();
    let params = Params::new("test", serde_yaml::from_str(&format!("file: {}", file.display())).unwrap());
    let graph = architecture.graph(&params).unwrap();
    let units = graph.units().iter().map(|unit| unit.name.clone()).collect();
    let mut parameters: HashMap<String, Tensor> = architecture.parameters(&params).unwrap();
    let graph = qdrop_core::graph::fold_batch_norm(graph, &mut parameters).unwrap();
    (QuantModel::new(graph, parameters, Device::Cpu), units)
}

/// A small network of 8 x 8 pixels and two classes: convolutions, a residual block and a fully connected layer.
fn small_network() -> ModelProto {
    let tensor = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        let value = |i: usize| ((i + name.len()) as f32 * 1.7).sin() * 0.4;
        TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: 1,
            float_data: (0..count).map(value).collect(),
            ..Default::default()
        }
    };
    let node = |op: &str, inputs: &[&str], output: &str, pads: &[i64]| NodeProto {
        op_type: op.into(),
        name: output.into(),
        input: inputs.iter().map(|i| i.to_string()).collect(),
        output: vec![output.into()],
        attribute: match pads {
            [] => Vec::new(),
            pads => vec![AttributeProto { name: "pads".into(), ints: pads.to_vec(), ..Default::default() }],
        },
        ..Default::default()
    };
    let value = |name: &str, sides: &[i64]| {
        let fixed = |side: &i64| Dimension { value: Some(Side::DimValue(*side)) };
        let batch = Dimension { value: Some(Side::DimParam("batch".into())) };
        let shape = TensorShapeProto { dim: std::iter::once(batch).chain(sides.iter().map(fixed)).collect() };
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape) };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) });
        ValueInfoProto { name: name.into(), r#type, ..Default::default() }
    };
    let same = [1, 1, 1, 1];
    let graph = GraphProto {
        name: "small".into(),
        initializer: vec![
            tensor("stem.weight", &[8, 3, 3, 3]),
            tensor("block.a.weight", &[8, 8, 3, 3]),
            tensor("block.b.weight", &[8, 8, 3, 3]),
            tensor("head.weight", &[8, 2]),
        ],
        node: vec![
            node("Conv", &["image", "stem.weight"], "s", &same),
            node("Relu", &["s"], "r", &[]),
            node("Conv", &["r", "block.a.weight"], "a", &same),
            node("Relu", &["a"], "ar", &[]),
            node("Conv", &["ar", "block.b.weight"], "b", &same),
            node("Add", &["b", "r"], "sum", &[]),
            node("Relu", &["sum"], "sr", &[]),
            node("GlobalAveragePool", &["sr"], "mean", &[]),
            node("Flatten", &["mean"], "flat", &[]),
            node("Gemm", &["flat", "head.weight"], "logits", &[]),
        ],
        input: vec![value("image", &[3, 8, 8])],
        output: vec![value("logits", &[2])],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() }
}

/// Writes a network and images of two classes.
fn files(folder: &Path) -> [String; 2] {
    let network = folder.join("net.onnx");
    std::fs::write(&network, prost::Message::encode_to_vec(&small_network())).unwrap();
    for (split, count) in [("train", 40), ("val", 8)] {
        for i in 0..count {
            let class = ["bright", "dark"][i % 2];
            let dir = folder.join("data").join(split).join(class);
            std::fs::create_dir_all(&dir).unwrap();
            let pixels: Vec<u8> = (0..9 * 9 * 3).map(|p| ((p * (i + 3) * 37) % 128 + (i % 2) * 100) as u8).collect();
            std::fs::write(dir.join(format!("{i}.ppm")), [b"P6 9 9 255 ".as_slice(), &pixels].concat()).unwrap();
        }
    }
    [network, folder.join("data")].map(|path| path.to_str().unwrap().into())
}

#[test]
fn a_network_without_a_recipe_is_described_checked_quantized_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let [network, data] = files(folder.path());
    let described = qdrop(&["describe", &network, "--json"]);
    let units: Vec<String> = described.json()["units"]
        .as_array()
        .unwrap()
        .iter()
        .map(|unit| unit["name"].as_str().unwrap().into())
        .collect();
    assert_eq!(units, ["stem", "block", "head"]);
    let few = ["--set", "calibration={images: 40, observe: 16, refine: 8}", "--iters", "8"];
    let run = |arguments: &[&str]| qdrop(&[&["quantize", &network, "--data", &data][..], &few[..], arguments].concat());
    let planned = run(&["--bits", "w2a4", "--dry-run"]);
    assert!(planned.stderr.contains("images: shorter side to 9 pixels, center crop of 8"), "{}", planned.stderr);
    assert!(planned.stderr.contains("net_w2a4: w2a4"), "{}", planned.stderr);
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let result = run(&["--bits", "w3a3", "--out", out, "--json"]).json();
    assert_eq!(result["bits"], "w3a3");
    let measured = qdrop(&["evaluate", out, "--json"]).json();
    assert_eq!(measured["top1"], result["quantized"]["top1"]);
    // Another network in the file's place is noticed.
    let mut other = small_network();
    other.graph.as_mut().unwrap().initializer[0].float_data[0] += 1.0;
    std::fs::write(&network, prost::Message::encode_to_vec(&other)).unwrap();
    let error = qdrop(&["evaluate", out, "--against-float"]);
    assert!(error.error().contains("SHA-256 differs"), "{}", error.error());
}

#[test]
fn a_recipe_names_the_file_and_units() {
    let folder = tempfile::tempdir().unwrap();
    let [_, data] = files(folder.path());
    let recipe = folder.path().join("recipe.yaml");
    let path = recipe.to_str().unwrap().to_string();
    let text = "{extends: [imagenet/_base, best/_best], name: mine, data: {params: {class_list: null, resize: 9}}, ";
    let describe = |model: &str| {
        std::fs::write(&recipe, format!("{text}model: {model}}}")).unwrap();
        qdrop(&["describe", &path, "--json"])
    };
    let names = |model: &str| {
        let units = describe(model).json()["units"].clone();
        units.as_array().unwrap().iter().map(|unit| unit["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("{onnx: net.onnx}"), ["stem", "block", "head"]);
    assert_eq!(names("{onnx: {file: net.onnx, units: {first: [stem, \"block.*\"]}}}"), ["first", "head"]);
    let check = |arguments: &[&str]| qdrop(&[&["check", &path, "--data", &data][..], arguments].concat());
    let error = describe("{onnx: nothing.onnx}");
    assert!(error.error().contains("nothing.onnx"), "{}", error.error());
    let error = describe("{onnx: {file: net.onnx, image_size: 16}}");
    assert!(error.error().contains("takes images of 8 x 8, not of `image_size` 16"), "{}", error.error());
    let error = describe("{onnxx: net.onnx}");
    assert!(error.error().contains("unknown architecture 'onnxx', did you mean 'onnx'?"), "{}", error.error());
    std::fs::write(&recipe, format!("{text}model: {{onnx: net.onnx}}}}")).unwrap();
    let error = check(&["--weights", "w.pth"]);
    assert!(error.error().contains("model.weights: the network comes with its weights, from"), "{}", error.error());
    let error = check(&["--preset", "fast"]);
    assert!(error.error().contains("--preset: a preset is for a network without a recipe"), "{}", error.error());
    let error = check(&["--bits", "4"]);
    assert!(error.error().contains("--bits: '4' are no bits"), "{}", error.error());
}
