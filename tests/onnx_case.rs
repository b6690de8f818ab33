//! Networks of random parameters and quantizers, and what onnxruntime computes of their files.

use crate::support::*;
use qdrop_core::graph::{fold_batch_norm, quantization_sites, SiteKind};
use qdrop_core::model::{Precision, QuantModel, QuantSite};
use qdrop_core::prelude::*;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The values of all nodes of a float network.
fn values(model: &QuantModel, images: &Tensor) -> Vec<Tensor> {
    let mut values: Vec<Tensor> = Vec::new();
    for (id, node) in model.graph().nodes() {
        let inputs: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i.index()]).collect();
        let value = match node.op {
            Op::Input => images.clone(),
            _ => model.raw_value(id, &inputs, Precision::Float).unwrap(),
        };
        values.push(value);
    }
    values
}

/// Scales of quantizers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales {
    /// As they come from ranges.
    Any,
    /// Powers of two. With [`pictures`], all sums of convolutions are exact, whatever their order, and many lie in the middle of
    /// two points of the next grid.
    PowersOfTwo,
}

/// Steps of the pixels of [`pictures`], and of biases that are added to products of such pixels.
const PIXEL: f32 = 1.0 / 32.0;
const BIAS: f64 = 1.0 / 16384.0;

/// A network whose sites are quantized with nearest rounding, with ranges from images.
pub fn quantized(mut model: QuantModel, [weight, activation]: [u32; 2], images: &Tensor, scales: Scales) -> QuantModel {
    let graph = model.graph().clone();
    let values = values(&model, images);
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
        if scales == Scales::PowersOfTwo {
            let QParams { mut scale, mut zero_point } = quantizer.qparams().unwrap();
            for (scale, zero_point) in scale.iter_mut().zip(&mut zero_point) {
                let power = scale.log2().ceil().exp2();
                if !spec.symmetric {
                    *zero_point = (*zero_point * *scale / power).round();
                }
                *scale = power;
            }
            quantizer.set_qparams(&QParams { scale, zero_point }, &Device::Cpu).unwrap();
        }
        let placed = QuantSite { name: site.name.clone(), quantizer };
        match site.kind {
            SiteKind::Weight => model.set_weight_quantizer(site.node, placed),
            SiteKind::Activation => model.set_activation_quantizer(site.node, placed),
        }
    }
    if scales == Scales::PowersOfTwo {
        let first = graph.nodes().find(|(_, node)| node.op.has_weight()).unwrap().1;
        let name = format!("{}.bias", first.name);
        let bias = (model.parameter(&name).unwrap() / BIAS).unwrap().round().unwrap();
        model.set_parameter(&name, (bias * BIAS).unwrap()).unwrap();
    }
    model.round_biases().unwrap();
    model
}

/// A network whose layers all read the image or values on grids: large kernels, groups, layers with and without biases, fully
/// connected ones, an image that two layers read, and values that are moved on the way.
pub fn on_grids() -> Graph {
    let mut b = GraphBuilder::new([4, 12, 12]);
    let image = b.input();
    let out = b
        .unit("all", |b| {
            let left = b.conv2d("left", image, Conv2d::new(8, 9).padding(4).bias())?;
            let left = b.relu("left.relu", left)?;
            let right = b.conv2d("right", image, Conv2d::new(8, 3).padding(1).groups(2))?;
            let right = b.relu("right.relu", right)?;
            let sum = b.add("sum", left, right)?;
            let sum = b.relu("sum.relu", sum)?;
            let x = b.max_pool("pool", sum, Pool2d::new(2).stride(2))?;
            let x = b.shuffle_channels("shuffle", x, 2)?;
            let x = b.slice("slice", x, 2, 4)?;
            let x = b.conv2d("grouped", x, Conv2d::new(8, 3).padding(1).groups(2))?;
            let x = b.relu("grouped.relu", x)?;
            let x = b.upsample_nearest("upsample", x, [2, 2])?;
            let x = b.conv2d("plain", x, Conv2d::new(12, 3).padding(1).bias())?;
            let x = b.relu("plain.relu", x)?;
            let x = b.conv2d("large", x, Conv2d::new(6, 9).stride(2).bias())?;
            let x = b.relu("large.relu", x)?;
            let x = b.flatten("flatten", x)?;
            let x = b.linear("hidden", x, 24)?;
            let x = b.relu("hidden.relu", x)?;
            b.node("no_bias", Op::Linear { out_features: 16, bias: false }, &[x])
        })
        .unwrap();
    b.finish(out).unwrap()
}

/// Random parameters under which values neither grow nor vanish from layer to layer.
pub fn random(graph: Graph) -> QuantModel {
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

/// Images that differ as photographs do: in brightness, and in large shapes more than in small ones. Their values are
/// multiples of [`PIXEL`].
pub fn pictures([count, channels, height, width]: [usize; 4], salt: u32) -> Tensor {
    let numbers = qdrop_kernels::testing::uniform(count * channels * 10, 0.0..1.0, salt.into());
    let plane = |numbers: &[f32]| {
        let pixel = |i: usize| {
            let [y, x] = [(i / width) as f32 / height as f32, (i % width) as f32 / width as f32];
            let wave = |w: &[f32]| (w[0] * 24.0 * y + w[1] * 24.0 * x + w[2] * 6.3).sin();
            let value = 2.0 * numbers[9] - 1.0 + numbers[..9].chunks(3).map(wave).sum::<f32>();
            (value / PIXEL).round() * PIXEL
        };
        (0..height * width).map(pixel).collect::<Vec<f32>>()
    };
    let pixels: Vec<f32> = numbers.chunks(10).flat_map(plane).collect();
    Tensor::from_vec(pixels, &[count, channels, height, width], &Device::Cpu).unwrap()
}

pub fn export(model: &QuantModel, format: &str, params: &str) -> ExportedNetwork {
    let params = Params::new("test", serde_yaml::from_str(params).unwrap());
    let exporter = registries().exporters.get(format, "test").unwrap().build(&params).unwrap();
    let recipe = &qdrop::recipes::load("demo").unwrap();
    let (bits, version, summary, float_weights) = ("w4a4", "1.2.3", None, None);
    exporter.export(&ExportRequest { model, recipe, bits, version, summary, float_weights }).unwrap()
}

pub fn write(file: impl AsRef<Path>, values: &[f32]) {
    std::fs::write(file, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

/// Writes a case for `onnx_export.py`: both patterns, images, and our logits. Returns the notes of the file in integers.
pub fn case(dir: &Path, model: &QuantModel, images: &Tensor) -> Vec<String> {
    std::fs::create_dir(dir).unwrap();
    write_data(dir, model, images);
    let integer = export(model, "onnx", "{}");
    std::fs::write(dir.join("integer.onnx"), &integer.files[0].content).unwrap();
    std::fs::write(dir.join("exact.onnx"), &export(model, "onnx", "{exact: true}").files[0].content).unwrap();
    integer.notes
}

/// What a network computes of images, node by node: all its logits.
pub fn logits(model: &QuantModel, precision: Precision, images: &Tensor) -> Vec<f32> {
    let count = images.dims()[0];
    let batch = |i: usize| images.narrow(0, i, 16.min(count - i)).unwrap();
    (0..count).step_by(16).flat_map(|i| vec(&model.forward(&batch(i), precision).unwrap()[0])).collect()
}

/// Writes images, and what the quantized network computes of them, to the folder of a case.
pub fn write_data(dir: &Path, model: &QuantModel, images: &Tensor) {
    write(dir.join("images.bin"), &vec(images));
    write(dir.join("logits.bin"), &logits(model, Precision::Quantized, images));
    std::fs::write(dir.join("case.json"), serde_json::to_vec(&HashMap::from([("images", images.dims())])).unwrap())
        .unwrap();
}

/// Writes the float network to the folder of a case.
pub fn float_case(dir: &Path, model: &QuantModel, images: &Tensor) {
    write(dir.join("float.bin"), &logits(model, Precision::Float, images));
    std::fs::write(dir.join("float.onnx"), &export(model, "onnx-float", "{}").files[0].content).unwrap();
}

/// What onnxruntime computes for all cases in a folder. `None`, and a line that says so, if Python or one of its packages is
/// not there; the variable PYTHON can name the interpreter.
pub fn onnxruntime(dir: &Path) -> Option<Vec<Value>> {
    let mut python = python(&["numpy", "onnx", "onnxruntime"])?;
    let output = python.arg(fixture("onnx_export.py")).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

pub fn number(value: &Value, path: &[&str]) -> f64 {
    let found = path.iter().fold(value, |value, key| &value[key]);
    found.as_f64().unwrap_or_else(|| panic!("{path:?} is {found}"))
}

/// Checks a result of `onnx_export.py` in both ways of running it: without optimization, and with all of it.
pub fn agrees(result: &Value, file: &str, difference: f64, same: f64) {
    for level in ["off", "on"] {
        let compared = &result["files"][file][level];
        let (error, equal) = (number(compared, &["error"]), number(compared, &["equal"]));
        let what = format!("{} {file}, optimizations {level}", result["case"]);
        assert!(error <= difference, "{what}: a mean difference of {error} of the logits' deviation");
        assert!(equal >= same, "{what}: {equal} of the predictions are the same");
    }
}

/// How many operations of this name onnxruntime runs, after all optimizations.
pub fn runs(result: &Value, file: &str, operator: &str) -> u64 {
    result["files"][file]["operators"][operator].as_u64().unwrap_or_default()
}
