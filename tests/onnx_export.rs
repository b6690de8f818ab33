//! Exported networks in onnxruntime, against qdrop.

use crate::onnx_case::*;
use crate::support::*;
use qdrop_core::graph::Node;
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
const SIZE: usize = 32;
/// What the exact pattern must reach: the share of images with the same prediction, and the mean difference of logits,
/// relative to the logits' standard deviation.
const SAME: f64 = 0.995;
const DIFFERENCE: f64 = 0.01;
/// The mean difference where all sums of convolutions are exact.
const SUMS_ARE_EXACT: f64 = 1e-4;

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
    let fits = |(id, node): &(NodeId, &Node)| {
        matches!(node.op, Op::Conv2d { .. }) && model.integer_layer(*id).unwrap().is_ok() && quantized_next(*id)
    };
    graph.nodes().filter(fits).count() as u64
}

/// Convolutions that no runtime can compute from codes to codes, because the published setting has no quantizer before or
/// behind them: they read the image or the mean of an image, or their value is added to another one or goes through a sigmoid.
fn without_quantizers(graph: &Graph) -> u64 {
    let open = |(id, node): &(NodeId, &Node)| {
        let next = |op: fn(&Op) -> bool| graph.consumers(*id).iter().all(|next| op(&graph.node(*next).op));
        matches!(node.op, Op::Conv2d { .. })
            && (matches!(graph.node(node.inputs[0]).op, Op::Input | Op::GlobalAveragePool)
                || next(|op| *op == Op::Add)
                || next(|op| *op == Op::Activation(Activation::Sigmoid)))
    };
    graph.nodes().filter(open).count() as u64
}

/// Those of them that are computed in floating point: they read what is not quantized, or are larger than 1 x 1 pixel.
fn in_floats(graph: &Graph) -> u64 {
    let open = |(id, node): &(NodeId, &Node)| {
        let Op::Conv2d { kernel, .. } = &node.op else { return false };
        let added = graph.consumers(*id).iter().all(|next| graph.node(*next).op == Op::Add);
        matches!(graph.node(node.inputs[0]).op, Op::Input | Op::GlobalAveragePool) || (added && *kernel != [1, 1])
    };
    graph.nodes().filter(open).count() as u64
}

#[test]
fn architectures_compute_the_same_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let (mut expected, bits) = (HashMap::new(), [[8, 8], [4, 4], [3, 3], [2, 4]]);
    for name in ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mnasnet", "regnetx_200m", "regnety_200m"] {
        let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
        let params = format!("{{classes: 10, image_size: {SIZE}}}");
        let params = Params::new("test", serde_yaml::from_str(&params).unwrap());
        let float = random(architecture.graph(&params).unwrap());
        let images = pictures([IMAGES, 3, SIZE, SIZE], 5);
        for (bits, scales) in bits.map(|bits| (bits, Scales::PowersOfTwo)).into_iter().chain([([4, 4], Scales::Any)]) {
            let model = quantized(float.float_copy(), bits, &images.narrow(0, 0, 16).unwrap(), scales);
            let case_name = format!("{name}_{scales:?}_w{}a{}", bits[0], bits[1]);
            case(&dir.path().join(&case_name), &model, &images);
            if bits == [8, 8] {
                float_case(&dir.path().join(&case_name), &float, &images);
            }
            let convolutions = model.graph().nodes().filter(|(_, node)| matches!(node.op, Op::Conv2d { .. })).count();
            expected
                .insert(case_name, (convolutions as u64, in_floats(model.graph()), without_quantizers(model.graph())));
        }
    }
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        let case = result["case"].as_str().unwrap();
        agrees(&result, "exact", SUMS_ARE_EXACT, SAME);
        // With other scales, rounding a value at once is not always rounding the product first.
        if case.contains("PowersOfTwo") {
            agrees(&result, "integer", SUMS_ARE_EXACT, SAME);
        }
        if case.ends_with("w8a8") {
            agrees(&result, "float", 1e-5, SAME);
        }
        // Every other convolution is one on integers, or a product of integers.
        let (convolutions, in_floats, without_quantizers) = expected[case];
        assert_eq!(runs(&result, "integer", "QLinearConv"), convolutions - without_quantizers, "{case}");
        assert_eq!(runs(&result, "integer", "MatMulInteger"), without_quantizers - in_floats, "{case}");
        // That of the image is two: of integers, and of the rest that they leave.
        assert_eq!(runs(&result, "integer", "Conv") + runs(&result, "integer", "FusedConv"), in_floats + 1, "{case}");
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
        let model = quantized(float.float_copy(), bits, &images, Scales::Any);
        let dir = dir.path().join(format!("everything_w{}a{}", bits[0], bits[1]));
        let notes = case(&dir, &model, &images).join("\n");
        assert_eq!(notes.contains("more than 8 bits"), bits == [4, 10], "{notes}");
        float_case(&dir, &float, &images);
    }
    let float = random(on_grids());
    let images = noise(&[256, 4, 12, 12], 6);
    let model = quantized(float.float_copy(), [4, 4], &images, Scales::Any);
    let on_grids = dir.path().join("on_grids");
    case(&on_grids, &model, &images);
    float_case(&on_grids, &float, &images);
    for result in onnxruntime(dir.path()).unwrap_or_default() {
        println!("{result}");
        agrees(&result, "float", 1e-5, 1.0);
        if result["case"] == "on_grids" {
            agrees(&result, "exact", SUMS_ARE_EXACT, 1.0);
        }
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
        let mut model = quantized(float.float_copy(), [4, 4], &images, Scales::Any);
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
        // Twelve bits are no sums of integers.
        let difference = if name == "wide_weight" { DIFFERENCE } else { SUMS_ARE_EXACT };
        agrees(&result, "exact", difference, SAME);
        agrees(&result, "integer", DIFFERENCE, SAME);
    }
}

/// Writes the evaluation images of a saved result, their classes, and what its networks compute of them, to the folder of a
/// case.
pub fn write_saved(case: &Path, result: &Path) {
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
        agrees(&result, "exact", SUMS_ARE_EXACT, 1.0);
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
