//! Packed files: what is read computes what was written, they are as small as they can be, the reader in their documentation
//! reads the same, and damaged ones are refused.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop::Run;
use qdrop_core::graph::SiteKind;
use qdrop_core::model::QuantSite;
use qdrop_core::packed::{self, About, Packed};
use qdrop_core::pipeline::{load_saved, plan_sites};
use qdrop_core::prelude::*;
use qdrop_core::recipe::Recipe;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A recipe whose architecture is not there: a file has the graph.
fn recipe(bits: u32, symmetric: bool, weight: &str, activation: &str) -> Recipe {
    let text = format!(
        "{{name: all, model: {{architecture: nowhere}}, data: idx, reconstruction: none, quant: {{setting: qdrop, \
         weight: {{bits: 2, symmetric: {symmetric}, granularity: {weight}, observer: minmax, quantizer: adaround}}, \
         activation: {{bits: 4, symmetric: {symmetric}, granularity: {activation}, observer: minmax, quantizer: lsq}}, \
         overrides: [{{match: '*', weight: {{bits: {bits}}}, activation: {{bits: {bits}}}}}]}}}}"
    );
    Recipe::from_yaml(&text, Path::new("recipe.yaml")).unwrap()
}

/// Every kind of parameter: weights with and without groups, biases, bounds.
fn graph() -> Graph {
    let mut b = GraphBuilder::new([3, 6, 6]);
    let x = b.input();
    let x = b.unit("stem", |b| {
        let x = b.conv2d("stem", x, Conv2d::new(5, 3).padding(1).bias())?;
        b.clip("stem.clip", x)
    });
    let x = b
        .unit("block", |b| {
            let x = x?;
            let y = b.conv2d("depthwise", x, Conv2d::new(5, 3).padding(1).groups(5))?;
            let y = b.conv2d("pointwise", y, Conv2d::new(5, 1).bias())?;
            let sum = b.add("sum", x, y)?;
            b.activation("sum.silu", sum, ops::Activation::Silu)
        })
        .unwrap();
    let x = b.global_average_pool("pool", x).unwrap();
    let x = b.flatten("flatten", x).unwrap();
    let x = b.unit("fc", |b| b.linear("fc", x, 7)).unwrap();
    b.finish(x).unwrap()
}

/// The network of `graph` with noise, quantized as `recipe` says, with ranges that differ from channel to channel.
fn quantized(graph: &Graph, recipe: &Recipe) -> QuantModel {
    let mut model = QuantModel::new(graph.clone(), noise_parameters(graph), Device::Cpu);
    for plan in plan_sites(graph, &recipe.quant).unwrap() {
        let (name, path) = &plan.quantizer;
        let entry = registries().quantizers.get(&name.name, path).unwrap();
        let mut quantizer = entry.build(&plan.spec, &name.params_at(path)).unwrap();
        let node = graph.node(plan.site.node);
        let count = match (plan.spec.granularity, plan.site.kind) {
            (Granularity::PerTensor, _) => 1,
            (Granularity::PerAxis(_), SiteKind::Weight) => model.weight(plan.site.node).unwrap().dims()[0],
            (Granularity::PerAxis(_), SiteKind::Activation) => node.shape[0],
        };
        let each = |of: fn(f32) -> f32| (0..count).map(|c| of(c as f32)).collect();
        let range = Range { min: each(|c| -0.31 + 0.02 * c), max: each(|c| 0.27 + 0.013 * c) };
        quantizer.set_range(&range, &Device::Cpu).unwrap();
        let site = QuantSite { name: plan.site.name.clone(), quantizer };
        match plan.site.kind {
            SiteKind::Weight => model.set_weight_quantizer(plan.site.node, site),
            SiteKind::Activation => model.set_activation_quantizer(plan.site.node, site),
        }
    }
    model
}

fn bytes(model: &QuantModel, recipe: &Recipe) -> Vec<u8> {
    packed::write(model, &About { recipe, summary: None, float_weights: Some("0123") }).unwrap()
}

/// The bits of values, of which -0 and 0 differ.
fn bits_of(x: &Tensor) -> Vec<u32> {
    vec(x).into_iter().map(f32::to_bits).collect()
}

/// Numbers of bits and symmetry, and granularities of weights and activations.
fn grids() -> Vec<(u32, bool, &'static str, &'static str)> {
    let mut all = Vec::new();
    for bits in 1..=16 {
        for symmetric in [false, true] {
            for (weight, activation) in
                [("per_channel", "per_tensor"), ("per_tensor", "per_channel"), ("per_channel", "per_channel")]
            {
                all.push((bits, symmetric, weight, activation));
            }
        }
    }
    all
}

#[test]
fn what_is_read_computes_exactly_what_was_written_on_every_grid() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    let (graph, images) = (graph(), noise(&[2, 3, 6, 6], 99));
    for (bits, symmetric, weight, activation) in grids() {
        let case = format!("{bits} bits, symmetric {symmetric}, {weight}, {activation}");
        let recipe = recipe(bits, symmetric, weight, activation);
        let model = quantized(&graph, &recipe);
        std::fs::write(&file, bytes(&model, &recipe)).unwrap();
        let saved = load_saved(&file, registries(), &Device::Cpu).unwrap();
        assert_eq!(saved.model.graph(), model.graph(), "{case}");
        assert_eq!((saved.summary.is_none(), saved.float_weights.as_deref()), (true, Some("0123")));
        let outputs = |model: &QuantModel| bits_of(&model.forward(&images, Precision::Quantized).unwrap()[0]);
        assert_eq!(outputs(&saved.model), outputs(&model), "{case}");
        for (node, site) in model.weight_sites() {
            let weight = |model: &QuantModel| {
                let quantizer = &model.weight_site(node).unwrap().quantizer;
                bits_of(&quantizer.fake_quantize(model.weight(node).unwrap()).unwrap())
            };
            assert_eq!(weight(&saved.model), weight(&model), "{case}: {}", site.name);
            let own = saved.model.weight_site(node).unwrap().quantizer.qparams().unwrap();
            assert_eq!(own, site.quantizer.qparams().unwrap(), "{case}: {}", site.name);
        }
        // Once more gives the same file.
        assert!(bytes(&saved.model, &recipe) == std::fs::read(&file).unwrap(), "{case}");
    }
}

#[test]
fn weights_that_are_on_no_uniform_grid_are_kept_as_they_are() {
    let recipe = recipe(4, false, "per_channel", "per_tensor");
    let mut model = quantized(&graph(), &recipe);
    let node = model.graph().find("depthwise").unwrap();
    // Zero points that are no integers.
    let params = QParams { scale: vec![0.5; 5], zero_point: vec![0.25; 5] };
    let quantizer = Box::new(Powers(*model.weight_site(node).unwrap().quantizer.spec(), params));
    model.set_weight_quantizer(node, QuantSite { name: "depthwise".into(), quantizer });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    std::fs::write(&file, bytes(&model, &recipe)).unwrap();
    let packed = Packed::read(&file).unwrap();
    let weight = packed.weights.iter().find(|w| w.site.name == "depthwise").unwrap();
    let site = model.weight_site(node).unwrap();
    let wanted = vec(&site.quantizer.fake_quantize(model.weight(node).unwrap()).unwrap());
    assert_eq!((&weight.values, &weight.site.params), (&wanted, &site.quantizer.qparams().unwrap()));
    check_reader(dir.path(), &[file]);
}

/// Bytes that no file can do without: codes, and 4 bytes for each scale, bias and other parameter, and the bits of zero
/// points.
fn theory(packed: &Packed) -> f64 {
    let site = |site: &packed::PackedSite| {
        let zero = site.params.zero_point.iter().all(|z| *z == 0.0);
        site.params.scale.len() as f64 * (4.0 + if zero { 0.0 } else { f64::from(site.spec.bits) / 8.0 })
    };
    let weights =
        packed.weights.iter().map(|w| w.values.len() as f64 * f64::from(w.site.spec.bits) / 8.0 + site(&w.site));
    let parameters = packed.parameters.iter().map(|p| 4.0 * p.values.len() as f64);
    weights.sum::<f64>() + packed.activations.iter().map(site).sum::<f64>() + parameters.sum::<f64>()
}

/// How much larger a file is than it would be in theory.
#[expect(clippy::print_stdout, reason = "the figures are for the log of the tests")]
fn overhead(file: &Path) -> f64 {
    let (size, theory) = (std::fs::metadata(file).unwrap().len() as f64, theory(&Packed::read(file).unwrap()));
    println!("{}: {size} bytes, {theory:.0} in theory, {:.2} % more", file.display(), 100.0 * (size / theory - 1.0));
    size / theory - 1.0
}

#[test]
fn files_are_at_most_3_percent_larger_than_in_theory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["best/mobilenet_v2_w4a4", "imagenet/mobilenet_v2_w2a4", "imagenet/resnet18_w3a3"] {
        let recipe = Loader::new(name).load().unwrap();
        let session = qdrop_core::pipeline::Session::new(recipe.clone(), registries(), Device::Cpu).unwrap();
        let graph = session.zero_model().unwrap().graph().clone();
        let file = dir.path().join(name.replace('/', "-"));
        std::fs::write(&file, bytes(&quantized(&graph, &recipe), &recipe)).unwrap();
        assert!(overhead(&file) < 0.03, "{name}");
    }
}

/// The file of the demo without reconstruction.
fn demo(out: &Path) -> PathBuf {
    let loader = Loader::new("demo").set("calibration={images: 64, observe: 32}").set("evaluation.images=100");
    let recipe = loader.set("reconstruction=none").set("compare=[]").load().unwrap();
    Run::new(recipe).unwrap().out(out).unwrap().quantize().unwrap();
    out.join("model.safetensors")
}

/// The reader in the documentation.
fn documented() -> String {
    let text = std::fs::read_to_string(fixture("../docs/packed-format.md")).unwrap();
    let code = text.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    assert!(code.lines().count() <= 40, "{} lines", code.lines().count());
    code.to_string()
}

/// Prints all values of files, as their bytes.
const PRINT: &str = "
import sys
def dump(*arrays):
    return ''.join(np.ascontiguousarray(a, dtype='<f4').tobytes().hex() for a in arrays)
for path in sys.argv[1:]:
    about, text, weights, activations, parameters = read(path)
    for name in sorted(weights):
        print('weight', name, list(weights[name].shape), dump(weights[name]))
    for name in sorted(activations):
        s = activations[name]
        print('activation', name, s['bits'], s['qmin'], dump(s['scale'], s['zero_point']))
    for name in sorted(parameters):
        print('parameter', name, list(parameters[name].shape), dump(parameters[name]))
";

/// Checks that the reader in the documentation reads from these files what we do, if there is NumPy.
#[track_caller]
fn check_reader(dir: &Path, files: &[PathBuf]) {
    let code = documented() + PRINT;
    let Some(mut python) = python(&["numpy"]) else { return };
    let script = dir.join("reader.py");
    std::fs::write(&script, code).unwrap();
    let output = python.arg(&script).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let hex = |values: &[f32]| -> String {
        values.iter().flat_map(|v| v.to_le_bytes()).map(|b| format!("{b:02x}")).collect()
    };
    let mut wanted = String::new();
    for file in files {
        let mut packed = Packed::read(file).unwrap();
        packed.weights.sort_by(|a, b| a.site.name.cmp(&b.site.name));
        packed.activations.sort_by(|a, b| a.name.cmp(&b.name));
        packed.parameters.sort_by(|a, b| a.name.cmp(&b.name));
        for w in &packed.weights {
            writeln!(wanted, "weight {} {:?} {}", w.site.name, w.shape, hex(&w.values)).unwrap();
        }
        for site in &packed.activations {
            let values = [&site.params.scale[..], &site.params.zero_point].concat();
            writeln!(wanted, "activation {} {} {} {}", site.name, site.spec.bits, site.spec.qmin(), hex(&values))
                .unwrap();
        }
        for p in &packed.parameters {
            writeln!(wanted, "parameter {} {:?} {}", p.name, p.shape, hex(&p.values)).unwrap();
        }
    }
    let got = String::from_utf8(output.stdout).unwrap();
    assert_eq!(got.lines().count(), wanted.lines().count());
    for (got, wanted) in got.lines().zip(wanted.lines()) {
        assert!(got == wanted, "{}", wanted.get(..40).unwrap_or(wanted));
    }
}

#[test]
fn the_reader_in_the_documentation_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = vec![demo(&dir.path().join("run"))];
    assert!(overhead(&files[0]) < 0.03);
    for (i, (bits, symmetric, weight, activation)) in grids().into_iter().enumerate() {
        let recipe = recipe(bits, symmetric, weight, activation);
        files.push(dir.path().join(i.to_string()));
        std::fs::write(&files[i + 1], bytes(&quantized(&graph(), &recipe), &recipe)).unwrap();
    }
    check_reader(dir.path(), &files);
}

#[test]
fn a_file_and_data_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (out, text) = (dir.path().join("run"), |path: &Path| path.to_str().unwrap().to_string());
    let made = demo(&out);
    let of_folder = qdrop(&["evaluate", &text(&out), "--json"]).json();
    let compared = qdrop(&["compare", &text(&made), &text(&out), "--json"]).json();
    assert_eq!((&compared["a"]["path"], &compared["a"]["measured"]), (&text(&made).into(), &compared["b"]["measured"]));
    let against = |path: &Path| qdrop(&["evaluate", &text(path), "--against-float", "--json"]).json();
    assert_eq!(against(&made), against(&out));
    // The recipe of the file, wherever it lies.
    let loaded = Loader::new(&made).load().unwrap();
    assert_eq!(loaded, Loader::new(&out).load().unwrap());
    // Alone, with a copy of the data.
    let (alone, data) = (dir.path().join("alone"), dir.path().join("data"));
    std::fs::copy(&made, &alone).unwrap();
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::create_dir(&data).unwrap();
    for file in std::fs::read_dir(fixture("../cli/demo")).unwrap().map(|file| file.unwrap()) {
        std::fs::copy(file.path(), data.join(file.file_name())).unwrap();
    }
    assert_eq!(qdrop(&["evaluate", &text(&alone), "--json"]).json(), of_folder);
    assert_eq!(qdrop(&["evaluate", &text(&alone), "--data", &text(&data), "--json"]).json(), of_folder);
    let changed = qdrop(&["evaluate", &text(&alone), "--set", "seed=3"]);
    assert!(changed.error().contains("a saved result cannot be changed"), "{}", changed.stderr);
}

#[test]
fn a_packed_file_is_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (file, recipe) = (dir.path().join("w.safetensors"), recipe(4, false, "per_channel", "per_tensor"));
    std::fs::write(&file, bytes(&quantized(&graph(), &recipe), &recipe)).unwrap();
    let error =
        qdrop_core::weights::load(&file, &graph().parameter_shapes(), &[], None, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("holds a quantized network, the result of a run; give the checkpoint"), "{error}");
}

#[test]
fn a_summary_and_the_checkpoint_are_optional() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    demo(&out);
    let saved = load_saved(&out, registries(), &Device::Cpu).unwrap();
    let file = dir.path().join("with.safetensors");
    let about = About { recipe: &saved.recipe, summary: saved.summary.as_ref(), float_weights: None };
    std::fs::write(&file, packed::write(&saved.model, &about).unwrap()).unwrap();
    let again = load_saved(&file, registries(), &Device::Cpu).unwrap();
    assert_eq!((&again.summary, &again.float_weights), (&saved.summary, &None));
    assert!(saved.summary.is_some() && overhead(&file) < 0.03);
    let run = qdrop(&["evaluate", file.to_str().unwrap(), "--against-float"]);
    assert!(run.error().contains("does not say from which checkpoint it was made"), "{}", run.stderr);
}

/// The error of reading these bytes.
#[track_caller]
fn refused(dir: &Path, bytes: &[u8]) -> String {
    let file = dir.join("damaged.safetensors");
    std::fs::write(&file, bytes).unwrap();
    let error = Packed::read(&file).unwrap_err().to_string();
    assert!(error.contains("damaged.safetensors"), "{error}");
    error
}

#[test]
fn damaged_files_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(3, false, "per_channel", "per_tensor");
    let good = bytes(&quantized(&graph(), &recipe), &recipe);
    for end in 0..good.len() {
        let error = refused(dir.path(), &good[..end]);
        assert!(error.contains("is truncated or damaged"), "{end}: {error}");
    }
    for byte in 0..good.len() {
        let bit = byte * 5 % 8;
        let mut flipped = good.clone();
        flipped[byte] ^= 1 << bit;
        let error = refused(dir.path(), &flipped);
        let known = ["damaged", "has version", "is no quantized network"];
        assert!(known.iter().any(|text| error.contains(text)), "bit {bit} of byte {byte}: {error}");
    }
    let version = good.windows(13).position(|bytes| bytes == b"\"version\":\"1\"").unwrap();
    let mut newer = good.clone();
    newer[version + 11] = b'2';
    let error = refused(dir.path(), &newer);
    assert!(error.contains("has version 2 of the packed format, and qdrop 0.1.0 wrote it"), "{error}");
    let error = refused(dir.path(), &[&good[..], b"more"].concat());
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn files_from_before_and_other_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let codes = Tensor::zeros((2, 3), DType::U8, &Device::Cpu).unwrap();
    let save = |name: &str| {
        candle_core::safetensors::save(
            &[(name, codes.clone())].into_iter().collect::<std::collections::HashMap<_, _>>(),
            &file,
        )
        .unwrap();
        Packed::read(&file).unwrap_err().to_string()
    };
    let error = save("conv1.weight");
    assert!(error.contains("is no quantized network: its metadata has no format 'qdrop packed'"), "{error}");
    let run = qdrop(&["evaluate", file.to_str().unwrap()]);
    assert!(run.error().contains("is no quantized network"), "{}", run.stderr);
    let error = save("conv1.weight.codes");
    assert!(error.contains("has unpacked weights: a qdrop from before packed files wrote it"), "{error}");
    let manifest =
        "{\"version\": \"0.0.9\", \"device\": \"cpu\", \"weights\": \"\", \"calibration\": null, \"recipe\": \"\"}";
    std::fs::write(dir.path().join("run.json"), manifest).unwrap();
    let error = save("conv1.weight.codes");
    assert!(error.contains("a qdrop 0.0.9 from before packed files wrote it"), "{error}");
}

#[test]
fn a_file_that_does_not_fit_its_recipe_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    let wide = recipe(4, false, "per_channel", "per_tensor");
    let model = quantized(&graph(), &wide);
    for (other, want) in [
        (
            recipe(3, false, "per_channel", "per_tensor"),
            "quantizes 'stem' with 4 bits, asymmetric, along axis 0, but the recipe says 3 bits",
        ),
        (recipe(4, true, "per_channel", "per_tensor"), "but the recipe says 4 bits, symmetric"),
        (recipe(4, false, "per_tensor", "per_tensor"), "but the recipe says 4 bits, asymmetric, per tensor"),
    ] {
        std::fs::write(&file, bytes(&model, &other)).unwrap();
        let error = load_saved(&file, registries(), &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    }
    let mut float = wide.clone();
    float.quant.overrides[0].float = true;
    std::fs::write(&file, bytes(&model, &float)).unwrap();
    let error = load_saved(&file, registries(), &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("which the network of its recipe lacks"), "{error}");
}
