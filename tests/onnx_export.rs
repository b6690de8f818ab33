//! Exported networks in onnxruntime, against qdrop.

use crate::support::*;
use qdrop_core::graph::{fold_batch_norm, quantization_sites, SiteKind};
use qdrop_core::model::{Precision, QuantModel, QuantSite};
use qdrop_core::ops::Padding;
use qdrop_core::pipeline::Session;
use qdrop_core::prelude::*;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Images of each network, and their sides.
const IMAGES: usize = 64;
const SIZE: usize = 64;

/// A network whose sites are quantized with nearest rounding, with ranges from images.
fn quantized(mut model: QuantModel, [weight, activation]: [u32; 2], images: &Tensor) -> QuantModel {
    let graph = model.graph().clone();
    let mut values: Vec<Tensor> = Vec::new();
    for (id, node) in graph.nodes() {
        let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i.index()]).collect();
        let value = match node.op {
            Op::Input => images.clone(),
            _ => model.raw_value(id, &inputs, Precision::Float).unwrap(),
        };
        values.push(value);
    }
    let sites = quantization_sites(&graph);
    for site in &sites {
        let (spec, tensor) = match site.kind {
            SiteKind::Weight => {
                // 8-bit weights are symmetric, so that they fit signed bytes.
                let bits = if site.first || site.last { 8 } else { weight };
                (spec(bits, bits == 8, Granularity::PerAxis(0)), model.weight(site.node).unwrap().clone())
            }
            SiteKind::Activation => {
                let bits = if site.last { 8 } else { activation };
                (spec(bits, false, Granularity::PerTensor), values[site.node.index()].clone())
            }
        };
        let channels = spec.granularity.channels(tensor.dims()).unwrap();
        let mut range = Range { min: vec![0.0; channels.count], max: vec![0.0; channels.count] };
        for (i, v) in vec(&tensor).into_iter().enumerate() {
            let c = i / channels.inner % channels.count;
            (range.min[c], range.max[c]) = (range.min[c].min(v), range.max[c].max(v));
        }
        let mut quantizer = quantizer("fixed", &spec);
        quantizer.set_range(&range, &Device::Cpu).unwrap();
        let placed = QuantSite { name: site.name.clone(), quantizer };
        match site.kind {
            SiteKind::Weight => model.set_weight_quantizer(site.node, placed),
            SiteKind::Activation => model.set_activation_quantizer(site.node, placed),
        }
    }
    model.round_biases().unwrap();
    model
}

/// Random parameters under which values neither grow nor vanish from layer to layer.
fn random(graph: Graph) -> QuantModel {
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let fan_in = shape.iter().skip(1).product::<usize>() as f64;
        let around_one = ["weight", "running_var", "bound"].iter().any(|end| name.ends_with(end));
        let value = noise(&shape, 11 * i as u32);
        let value = match shape.len() {
            1 if around_one => value.affine(0.3, 1.0),
            1 => value.affine(0.1, 0.0),
            _ => value.affine((6.0 / fan_in).sqrt(), 0.0),
        };
        (name, value.unwrap())
    };
    let mut parameters: HashMap<String, Tensor> =
        graph.parameter_shapes().into_iter().enumerate().map(parameter).collect();
    let graph = fold_batch_norm(graph, &mut parameters).unwrap();
    QuantModel::new(graph, parameters, Device::Cpu)
}

fn export(model: &QuantModel, format: &str, params: &str) -> ExportedNetwork {
    let params = Params::new("test", serde_yaml::from_str(params).unwrap());
    let exporter = registries().exporters.get(format, "test").unwrap().build(&params).unwrap();
    let (recipe, bits, version) = ("name: test\n", "w4a4", "1.2.3");
    exporter.export(&ExportRequest { model, recipe, bits, version }).unwrap()
}

fn write(file: impl AsRef<Path>, values: &[f32]) {
    std::fs::write(file, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

/// Writes a case for `onnx_export.py`: both patterns, images, and our logits. Returns the notes of the file in integers.
fn case(dir: &Path, model: &QuantModel, images: &Tensor) -> Vec<String> {
    std::fs::create_dir(dir).unwrap();
    let logits = vec(&model.forward(images, Precision::Quantized).unwrap()[0]);
    write(dir.join("images.bin"), &vec(images));
    write(dir.join("logits.bin"), &logits);
    std::fs::write(dir.join("case.json"), format!("{{\"images\": {:?}}}", images.dims())).unwrap();
    let integer = export(model, "onnx", "{}");
    std::fs::write(dir.join("integer.onnx"), &integer.files[0].content).unwrap();
    std::fs::write(dir.join("exact.onnx"), &export(model, "onnx", "{exact: true}").files[0].content).unwrap();
    integer.notes
}

/// Writes the float network to the folder of a case.
fn float_case(dir: &Path, model: &QuantModel, images: &Tensor) {
    let logits = vec(&model.forward(images, Precision::Float).unwrap()[0]);
    write(dir.join("float.bin"), &logits);
    std::fs::write(dir.join("float.onnx"), &export(model, "onnx-float", "{}").files[0].content).unwrap();
}

/// What onnxruntime computes for all cases in a folder. `None`, and a line that says so, if Python or one of its packages is
/// not there; the variable PYTHON can name the interpreter.
#[expect(clippy::print_stderr, reason = "who runs the tests should see what was skipped")]
fn onnxruntime(dir: &Path) -> Option<Vec<Value>> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let run = |arguments: &[&std::ffi::OsStr]| {
        std::process::Command::new(&python).env("OMP_NUM_THREADS", "1").args(arguments).output()
    };
    let there = run(&["-c".as_ref(), "import numpy, onnx, onnxruntime".as_ref()]);
    if !there.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {} has no numpy, onnx and onnxruntime (PYTHON names another one)", python.to_string_lossy());
        return None;
    }
    let output = run(&[fixture("onnx_export.py").as_os_str(), dir.as_os_str()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn number(value: &Value, path: &[&str]) -> f64 {
    path.iter().fold(value, |value, key| &value[key]).as_f64().unwrap_or_default()
}

#[test]
fn architectures_compute_the_same_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let bits = [[8, 8], [4, 4], [3, 3], [2, 4]];
    for name in ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mnasnet", "regnetx_600m", "regnety_400m"] {
        let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
        let params = format!("{{classes: 10, image_size: {SIZE}}}");
        let params = Params::new("test", serde_yaml::from_str(&params).unwrap());
        let float = random(architecture.graph(&params).unwrap());
        let images = noise(&[IMAGES, 3, SIZE, SIZE], 5).affine(2.0, 0.0).unwrap();
        for bits in bits {
            let model = quantized(float.float_copy(), bits, &images);
            let case_dir = dir.path().join(format!("{name}_w{}a{}", bits[0], bits[1]));
            case(&case_dir, &model, &images);
            if bits == [8, 8] {
                float_case(&case_dir, &float, &images);
            }
        }
    }
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        println!("{result}");
    }
}
