//! Exported networks in onnxruntime, against qdrop.

use crate::support::*;
use qdrop_core::graph::{fold_batch_norm, quantization_sites, SiteKind};
use qdrop_core::inference::Inference;
use qdrop_core::model::{Precision, QuantModel, QuantSite};
use qdrop_core::ops::{Activation, Padding};
use qdrop_core::pipeline::{load_saved, Session};
use qdrop_core::prelude::*;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Images of each network of random weights, and their sides.
const IMAGES: usize = 64;
const SIZE: usize = 64;
/// What the exact pattern must reach: the share of images with the same prediction, and the mean difference of logits,
/// relative to the logits' standard deviation.
const SAME: f64 = 0.995;
const DIFFERENCE: f64 = 0.01;

/// A network whose sites are quantized with nearest rounding, with ranges from images.
pub fn quantized(mut model: QuantModel, [weight, activation]: [u32; 2], images: &Tensor) -> QuantModel {
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

pub fn export(model: &QuantModel, format: &str, params: &str) -> ExportedNetwork {
    let params = Params::new("test", serde_yaml::from_str(params).unwrap());
    let exporter = registries().exporters.get(format, "test").unwrap().build(&params).unwrap();
    let recipe = &qdrop::recipes::load("demo").unwrap();
    let (bits, version, summary, float_weights) = ("w4a4", "1.2.3", None, None);
    exporter.export(&ExportRequest { model, recipe, bits, version, summary, float_weights }).unwrap()
}

fn write(file: impl AsRef<Path>, values: &[f32]) {
    std::fs::write(file, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

/// Writes a case for `onnx_export.py`: both patterns, images, and our logits. Returns the notes of the file in integers.
fn case(dir: &Path, model: &QuantModel, images: &Tensor) -> Vec<String> {
    std::fs::create_dir(dir).unwrap();
    write_data(dir, model, images);
    let integer = export(model, "onnx", "{}");
    std::fs::write(dir.join("integer.onnx"), &integer.files[0].content).unwrap();
    std::fs::write(dir.join("exact.onnx"), &export(model, "onnx", "{exact: true}").files[0].content).unwrap();
    integer.notes
}

/// Writes images, and what the quantized network computes of them, to the folder of a case.
fn write_data(dir: &Path, model: &QuantModel, images: &Tensor) {
    write(dir.join("images.bin"), &vec(images));
    write(dir.join("logits.bin"), &vec(&model.forward(images, Precision::Quantized).unwrap()[0]));
    std::fs::write(dir.join("case.json"), format!("{{\"images\": {:?}}}", images.dims())).unwrap();
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
        eprintln!(
            "SKIPPED: {} has no numpy, onnx and onnxruntime (PYTHON names another one)",
            python.to_string_lossy()
        );
        return None;
    }
    let output = run(&[fixture("onnx_export.py").as_os_str(), dir.as_os_str()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn number(value: &Value, path: &[&str]) -> f64 {
    let found = path.iter().fold(value, |value, key| &value[key]);
    found.as_f64().unwrap_or_else(|| panic!("{path:?} is {found}"))
}

/// Checks a result of `onnx_export.py` in both ways of running it: without optimization, and with all of it.
fn agrees(result: &Value, file: &str, difference: f64, same: f64) {
    for level in ["off", "on"] {
        let compared = &result["files"][file][level];
        let (error, equal) = (number(compared, &["error"]), number(compared, &["equal"]));
        let what = format!("{} {file}, optimizations {level}", result["case"]);
        assert!(error <= difference, "{what}: a mean difference of {error} of the logits' deviation");
        assert!(equal >= same, "{what}: {equal} of the predictions are the same");
    }
}

/// How many operations of this name onnxruntime runs, after all optimizations.
fn runs(result: &Value, file: &str, operator: &str) -> u64 {
    result["files"][file]["operators"][operator].as_u64().unwrap_or_default()
}

/// How far qdrop itself is from the same sums in another order: the mean difference of logits, relative to their standard
/// deviation. Rounding to few bits makes a whole step of a sum that lies near the middle of two.
fn own_difference(model: &QuantModel, images: &Tensor) -> f64 {
    let node_by_node = vec(&model.forward(images, Precision::Quantized).unwrap()[0]);
    let mut inference = Inference::of_network(model, Precision::Quantized).unwrap();
    let compiled = vec(&inference.forward(images).unwrap()[0]);
    let count = node_by_node.len() as f64;
    let mean = node_by_node.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let deviation = (node_by_node.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count).sqrt();
    let distance: f64 = node_by_node.iter().zip(&compiled).map(|(a, b)| f64::from((a - b).abs())).sum();
    distance / count / deviation
}

/// Convolutions that read a quantized value and whose values are quantized before anything but an activation function.
fn between_quantizers(model: &QuantModel) -> u64 {
    let graph = model.graph();
    let in_bytes = |site: &QuantSite| {
        let spec = site.quantizer.spec();
        spec.bits <= 8 && spec.granularity == Granularity::PerTensor
    };
    let joined = |op: &Op| matches!(op, Op::Activation(Activation::Relu | Activation::Relu6) | Op::Clip);
    let quantized_next = |mut id: NodeId| loop {
        match (model.activation_site(id), &graph.consumers(id)[..]) {
            (Some(site), _) => return in_bytes(site),
            (None, [next]) if joined(&graph.node(*next).op) => id = *next,
            _ => return false,
        }
    };
    let fits = |(id, node): &(NodeId, &qdrop_core::graph::Node)| {
        matches!(node.op, Op::Conv2d { .. }) && model.integer_layer(*id).unwrap().is_ok() && quantized_next(*id)
    };
    graph.nodes().filter(fits).count() as u64
}

#[test]
fn architectures_compute_the_same_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let (mut expected, bits) = (HashMap::new(), [[8, 8], [4, 4], [3, 3], [2, 4]]);
    for name in ["resnet18", "resnet50", "mobilenet_v2", "mnasnet", "regnetx_200m", "regnety_200m"] {
        let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
        let params = format!("{{classes: 10, image_size: {SIZE}}}");
        let params = Params::new("test", serde_yaml::from_str(&params).unwrap());
        let float = random(architecture.graph(&params).unwrap());
        let images = noise(&[IMAGES, 3, SIZE, SIZE], 5).affine(2.0, 0.0).unwrap();
        for bits in bits {
            let model = quantized(float.float_copy(), bits, &images);
            let case_name = format!("{name}_w{}a{}", bits[0], bits[1]);
            case(&dir.path().join(&case_name), &model, &images);
            if bits == [8, 8] {
                float_case(&dir.path().join(&case_name), &float, &images);
            }
            expected.insert(case_name, (between_quantizers(&model), own_difference(&model, &images)));
        }
    }
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        let case = result["case"].as_str().unwrap();
        let (convolutions, own) = expected[case];
        assert_eq!(runs(&result, "integer", "QLinearConv"), convolutions, "{case}");
        println!("{case} own {own} {} {}", result["files"]["integer"], result["files"]["exact"]);
    }
}

/// A network with every operation.
fn everything() -> Graph {
    let mut b = GraphBuilder::new([4, 16, 16]);
    let image = b.input();
    let out = b
        .unit("everything", |b| {
            let x = b.pad("pad", image, Padding { top: 1, bottom: 2, left: 0, right: 1 })?;
            let x = b.conv2d("stem", x, Conv2d::new(12, 3).bias())?;
            let x = b.relu("stem.relu", x)?;
            let stem = b.max_pool("max_pool", x, Pool2d::new(3).stride(2).padding(1).ceil_mode(true))?;
            // Two branches, with a padded value that is read by more than a convolution.
            let left = b.slice("left", stem, 0, 6)?;
            let right = b.slice("right", stem, 6, 6)?;
            let right = b.conv2d("clipped", right, Conv2d::new(6, 3).padding(1).bias())?;
            let right = b.clip("clip", right)?;
            let right = b.conv2d("depthwise", right, Conv2d::new(6, 3).padding(1).groups(6).bias())?;
            let right = b.relu6("relu6", right)?;
            let x = b.concat("concat", &[left, right])?;
            let x = b.batch_norm("after_concat", x, 1e-3)?;
            let x = b.relu("after_concat.relu", x)?;
            let x = b.conv2d("mixed", x, Conv2d::new(12, 1).bias())?;
            let x = b.shuffle_channels("shuffle", x, 3)?;
            let x = b.conv2d("silu.conv", x, Conv2d::new(12, 1).bias())?;
            let silu = b.activation("silu", x, Activation::Silu)?;
            let gate = b.global_average_pool("squeeze", silu)?;
            let gate = b.conv2d("reduce", gate, Conv2d::new(4, 1).bias())?;
            let gate = b.activation("hard_swish", gate, Activation::HardSwish)?;
            let gate = b.conv2d("excite", gate, Conv2d::new(12, 1).bias())?;
            let gate = b.activation("hard_sigmoid", gate, Activation::HardSigmoid)?;
            let x = b.mul("gated", silu, gate)?;
            let branch = b.conv2d("gelu.conv", x, Conv2d::new(12, 3).padding(1).bias())?;
            let branch = b.activation("gelu", branch, Activation::Gelu)?;
            let branch = b.conv2d("sigmoid.conv", branch, Conv2d::new(12, 1).bias())?;
            let branch = b.activation("sigmoid", branch, Activation::Sigmoid)?;
            let x = b.add("sum", x, branch)?;
            let x = b.conv2d("plain", x, Conv2d::new(8, 3).stride(2).padding(1).bias())?;
            let x = b.upsample_nearest("upsample", x, [2, 3])?;
            let x = b.conv2d("upsampled", x, Conv2d::new(8, 3).dilation(2).bias())?;
            let x = b.layer_norm("layer_norm", x, 1e-5)?;
            let x = b.average_pool("average", x, Pool2d::new(3).stride(2).padding(1).ceil_mode(true))?;
            let x = b.average_pool("inside", x, Pool2d::new(2).ceil_mode(true).count_include_pad(false))?;
            let x = b.conv2d("before_flat", x, Conv2d::new(8, 1).bias())?;
            let x = b.relu("before_flat.relu", x)?;
            let x = b.flatten("flatten", x)?;
            let x = b.linear("hidden", x, 24)?;
            let x = b.relu("hidden.relu", x)?;
            let x = b.node("no_bias", Op::Linear { out_features: 16, bias: false }, &[x])?;
            let x = b.layer_norm("flat_norm", x, 1e-5)?;
            b.linear("classifier", x, 10)
        })
        .unwrap();
    b.finish(out).unwrap()
}

#[test]
fn every_operation_computes_the_same_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let float = random(everything());
    let images = noise(&[256, 4, 16, 16], 6);
    for bits in [[8, 8], [4, 4], [3, 3], [5, 6], [4, 10]] {
        let model = quantized(float.float_copy(), bits, &images);
        let dir = dir.path().join(format!("everything_w{}a{}", bits[0], bits[1]));
        let notes = case(&dir, &model, &images).join("\n");
        assert_eq!(notes.contains("more than 8 bits"), bits == [4, 10], "{notes}");
        float_case(&dir, &float, &images);
    }
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        println!("{result}");
        agrees(&result, "float", 1e-5, 1.0);
    }
}

/// Grids that are not those of recipes: values per channel, symmetric values, weights per tensor, and weights of 8 bits whose
/// zero points move them beyond signed bytes.
#[test]
fn unusual_grids_compute_the_same_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let mut b = GraphBuilder::new([4, 8, 8]);
    let image = b.input();
    let out = b
        .unit("chain", |b| {
            let mut x = image;
            for i in 0..4 {
                x = b.conv2d(&format!("conv{i}"), x, Conv2d::new(12, 3).padding(1).bias())?;
                x = b.relu(&format!("relu{i}"), x)?;
            }
            b.conv2d("last", x, Conv2d::new(10, 8).bias())
        })
        .unwrap();
    let float = random(b.finish(out).unwrap());
    let images = noise(&[256, 4, 8, 8], 6);
    let graph = float.graph().clone();
    let place = |model: &mut QuantModel, name: &str, spec: QuantSpec, [min, max]: [f32; 2], channels: usize| {
        let mut quantizer = quantizer("fixed", &spec);
        // Uneven ranges.
        let uneven = |v: f32| (0..channels).map(|c| v * (1.0 + 0.1 * c as f32)).collect::<Vec<f32>>();
        quantizer.set_range(&Range { min: uneven(min), max: uneven(max) }, &Device::Cpu).unwrap();
        let id = graph.find(name).unwrap();
        let site = QuantSite { name: name.into(), quantizer };
        match graph.node(id).op.has_weight() {
            true => model.set_weight_quantizer(id, site),
            false => model.set_activation_quantizer(id, site),
        }
    };
    let mut expected = HashMap::new();
    let mut add = |name: &str, change: &dyn Fn(&mut QuantModel)| {
        let mut model = quantized(float.float_copy(), [4, 4], &images);
        change(&mut model);
        model.round_biases().unwrap();
        let notes = case(&dir.path().join(name), &model, &images).join("\n");
        expected.insert(name.to_string(), (between_quantizers(&model), notes));
    };
    add("asymmetric_8_bits", &|model| {
        place(model, "conv1", spec(8, false, Granularity::PerAxis(0)), [-0.05, 0.3], 12);
        place(model, "conv2", spec(8, false, Granularity::PerAxis(0)), [-0.3, 0.05], 12);
    });
    add("channels", &|model| place(model, "relu1", spec(4, false, Granularity::PerAxis(1)), [0.0, 1.5], 12));
    add("symmetric_values", &|model| place(model, "relu1", spec(5, true, Granularity::PerTensor), [-2.0, 2.0], 1));
    add("weight_per_tensor", &|model| place(model, "conv1", spec(4, false, Granularity::PerTensor), [-0.3, 0.25], 1));
    add("wide_weight", &|model| place(model, "conv1", spec(12, false, Granularity::PerAxis(0)), [-0.3, 0.25], 12));
    let notes = |name: &str| expected[name].1.as_str();
    assert!(notes("asymmetric_8_bits").contains("`symmetric: true` does) (2 in all: 'conv1', 'conv2')"));
    assert!(notes("channels").contains("several scales are rounded in floating point (1 in all: 'relu1')"));
    assert!(notes("wide_weight").contains("(1 in all: 'conv1')"), "{}", notes("wide_weight"));
    assert!(["symmetric_values", "weight_per_tensor"].iter().all(|name| !notes(name).contains("'conv1'")));
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        let name = result["case"].as_str().unwrap();
        println!("{result}");
        assert_eq!(runs(&result, "integer", "QLinearConv"), expected[name].0, "{name}");
        agrees(&result, "exact", DIFFERENCE, SAME);
        agrees(&result, "integer", DIFFERENCE, SAME);
    }
}

/// Writes the evaluation images of a saved result, their classes, and what its networks compute of them, to the folder of a
/// case.
fn write_saved(case: &Path, result: &Path) {
    let saved = load_saved(result, registries(), &Device::Cpu).unwrap();
    let session = Session::new(saved.recipe, registries(), Device::Cpu).unwrap();
    let dataset = session.dataset(Split::Evaluation).unwrap();
    let samples: Vec<Sample> = (0..dataset.len()).map(|i| dataset.sample(i).unwrap()).collect();
    let pixels: Vec<f32> = samples.iter().flat_map(|sample| sample.image.iter().copied()).collect();
    let dims = [&[samples.len()], session.graph().input_shape()].concat();
    let images = Tensor::from_vec(pixels, dims, &Device::Cpu).unwrap();
    let targets = samples.iter().flat_map(|sample| (sample.target.class().unwrap() as u32).to_le_bytes());
    std::fs::write(case.join("targets.bin"), targets.collect::<Vec<u8>>()).unwrap();
    let logits = |model: &QuantModel, precision| {
        let mut inference = Inference::of_network(model, precision).unwrap();
        let batches = (0..samples.len()).step_by(50);
        let batch = |i: usize| images.narrow(0, i, 50.min(samples.len() - i)).unwrap();
        batches.flat_map(|i| vec(&inference.forward(&batch(i)).unwrap()[0])).collect::<Vec<f32>>()
    };
    write(case.join("images.bin"), &vec(&images));
    write(case.join("logits.bin"), &logits(&saved.model, Precision::Quantized));
    write(case.join("float.bin"), &logits(&session.float_model().unwrap(), Precision::Float));
    std::fs::write(case.join("case.json"), format!("{{\"images\": {:?}}}", images.dims())).unwrap();
}

/// A finished run of any recipe, such as that of a real network: `QDROP_RESULT=DIR cargo test --release -- --ignored
/// a_finished_run`. Prints what the files compute.
#[test]
#[ignore = "needs the folder of a finished run in QDROP_RESULT"]
fn a_finished_run_has_the_same_accuracy_in_onnxruntime() {
    let result = std::env::var("QDROP_RESULT").expect("QDROP_RESULT is the folder of a finished run");
    let dir = tempfile::tempdir().unwrap();
    let case = dir.path().join("result");
    std::fs::create_dir(&case).unwrap();
    for (name, arguments) in
        [("integer", vec!["onnx"]), ("exact", vec!["onnx", "--exact"]), ("float", vec!["onnx-float"])]
    {
        let file = case.join(format!("{name}.onnx"));
        let start = ["export", &result, "--out", file.to_str().unwrap(), "--json", "--format"];
        qdrop(&[&start[..], &arguments[..]].concat()).json();
    }
    write_saved(&case, Path::new(&result));
    for result in onnxruntime(dir.path()).expect("onnxruntime") {
        println!("{result}");
        for file in ["integer", "exact", "float"] {
            same_accuracy(&result, file);
        }
    }
}

/// Checks that the accuracies of a file and of qdrop differ by no more than the standard error of their difference, and returns
/// that of qdrop.
fn same_accuracy(result: &Value, file: &str) -> f64 {
    let of = |key| number(&result["files"][file], &["accuracy", key]);
    let [ours, theirs, error] = ["ours", "theirs", "standard_error"].map(of);
    assert!((ours - theirs).abs() <= error, "{file}: {ours} here, {theirs} there, standard error {error}");
    ours
}

/// The demo, shortened, from the command line to its accuracy in onnxruntime.
#[test]
fn the_demo_has_the_same_accuracy_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("result");
    let out = out.to_str().unwrap();
    let short = ["compare=[]", "calibration={images: 256, observe: 64}"].map(|set| ["--set", set]).concat();
    let run = qdrop(&[&["quantize", "demo", "--iters", "40", "--out", out, "--json"], &short[..]].concat()).json();
    let case = dir.path().join("cases/demo");
    std::fs::create_dir_all(&case).unwrap();
    for (format, more, name) in
        [("onnx", vec![], "integer"), ("onnx", vec!["--exact"], "exact"), ("onnx-float", vec![], "float")]
    {
        let file = case.join(format!("{name}.onnx"));
        let start = ["export", out, "--format", format, "--out", file.to_str().unwrap(), "--json"];
        let exported = qdrop(&[&start, &more[..]].concat()).json();
        let bytes = std::fs::metadata(&file).unwrap().len();
        assert_eq!((&exported["format"], &exported["files"][0]["bytes"]), (&format.into(), &bytes.into()));
        // 174 thousand bytes are the weights of two bits; the float network has 2.8 million.
        assert!(if format == "onnx" { bytes < 235_000 } else { bytes > 2_700_000 }, "{name}: {bytes} bytes");
        let again = qdrop(&[&start, &more[..]].concat());
        assert!(again.error().contains("exists already; remove it, or choose another name with --out"));
    }
    let in_folder = qdrop(&["export", out, "--format", "onnx", "--set", "exact=true", "--json"]).json();
    assert!(in_folder["files"][0]["path"].as_str().unwrap().ends_with("result/model.exact.onnx"), "{in_folder}");
    let misspelt = qdrop(&["export", out, "--format", "onx"]);
    assert!(misspelt.error().contains("--format: unknown exporter 'onx', did you mean 'onnx'?"), "{}", misspelt.stderr);

    write_saved(&case, Path::new(out));
    for result in onnxruntime(&dir.path().join("cases")).unwrap_or_default() {
        println!("{result}");
        agrees(&result, "float", 1e-5, 1.0);
        agrees(&result, "exact", DIFFERENCE, SAME);
        // ResNet-18 has 8 convolutions whose values are not added before they are quantized, besides the first.
        assert_eq!(runs(&result, "integer", "QLinearConv"), 8);
        assert_eq!(runs(&result, "exact", "QLinearConv"), 0);
        for file in ["integer", "exact"] {
            let ours = same_accuracy(&result, file);
            assert!((100.0 * ours - number(&run, &["quantized", "top1"])).abs() < 0.1, "{ours} {run}");
        }
        assert_eq!(result["files"]["integer"]["domains"], serde_json::from_str::<Value>("[\"\"]").unwrap());
        let recipe = result["files"]["integer"]["metadata"]["qdrop.recipe"].as_str().unwrap();
        assert!(recipe.contains("name: demo"), "{recipe}");
    }
}
