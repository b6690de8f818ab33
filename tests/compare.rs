//! Quantized networks against the float network, and against each other, on the same images.

use crate::support::*;
use qdrop::recipes::{load, Loader};
use qdrop::{Comparison, Error, Evaluation, Run, Stage};
use qdrop_core::dataset::Split;
use qdrop_core::inference::Inference;
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::pipeline::{load_batch, load_saved, Pair};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Images that are evaluated.
const IMAGES: usize = 150;

/// The demo without reconstruction, so that it runs in a moment and many images are wrong.
fn nearest() -> Loader<'static> {
    Loader::new("demo")
        .set("calibration={images: 64, observe: 32}")
        .set(format!("evaluation={{images: {IMAGES}, batch_size: 64}}"))
        .set("reconstruction=none")
        .set("compare=[]")
}

fn run(loader: Loader<'_>, out: &Path) {
    Run::new(loader.load().unwrap()).unwrap().out(out).unwrap().quantize().unwrap();
}

/// Two results with different ranges, and the folder that holds them.
fn two() -> (tempfile::TempDir, [PathBuf; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let dirs = ["a", "b"].map(|name| dir.path().join(name));
    run(nearest(), &dirs[0]);
    run(nearest().set("quant.weight.bits=3").set("quant.weight.observer=minmax"), &dirs[1]);
    (dir, dirs)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[track_caller]
fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got}, {want} is expected");
}

/// KL(p || q) of probabilities, from its definition.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let softmax = |logits: &[f32]| {
        let powers: Vec<f64> = logits.iter().map(|v| f64::from(*v).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|v| v / sum).collect::<Vec<_>>()
    };
    softmax(p).iter().zip(softmax(q)).map(|(p, q)| p * (p / q).ln()).sum()
}

fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

#[test]
fn a_result_is_measured_against_the_float_network() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let summary = |arguments: &[&str]| qdrop(&[&["quantize", "demo", "--json"], arguments].concat()).json();
    let images = format!("evaluation={{images: {IMAGES}, against_float: true}}");
    let sets = [
        "calibration={images: 64, observe: 32}",
        "reconstruction=none",
        "compare=[{name: wider, set: {quant.weight.bits: 4}}]",
        &images,
    ];
    let mut arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    arguments.extend(["--out", text(&out)]);
    let printed = summary(&arguments);
    let saved: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    let keys = ["agreement", "agreement_standard_error", "kl", "kl_standard_error", "top1_standard_error"];
    for key in keys {
        assert!(number(&saved["quantized"], key) > 0.0, "{key}");
        assert_eq!(
            (&printed["quantized"][key], &printed["rows"][2][key]),
            (&saved["quantized"][key], &saved["quantized"][key])
        );
        // The variant is measured in the same way.
        assert!(number(&printed["rows"][1], key) > 0.0, "{key}");
    }
    assert!(number(&printed["rows"][1], "kl") < number(&saved["quantized"], "kl"), "4 bits are closer than 2");
    assert!(saved["float"]["kl"].is_null(), "the float network is not compared with itself");
    assert_eq!(qdrop(&["evaluate", text(&out), "--json"]).json()["kl"], saved["quantized"]["kl"]);

    // From the definitions.
    let result = load_saved(&out, registries(), &Device::Cpu).unwrap();
    let session = qdrop_core::pipeline::Session::new(result.recipe, registries(), Device::Cpu).unwrap();
    let dataset = session.dataset(Split::Evaluation).unwrap();
    let indices: Vec<usize> = (0..IMAGES).collect();
    let batch = load_batch(&*dataset, &indices, session.graph().input_shape(), &Device::Cpu).unwrap();
    let logits = |model: &QuantModel, precision| {
        let outputs = Inference::of_network(model, precision).unwrap().forward(&batch.parts[0].images).unwrap();
        outputs[0].to_vec2::<f32>().unwrap()
    };
    let float_model = session.float_model().unwrap();
    let float = logits(&float_model, Precision::Float);
    let quantized = logits(&result.model, Precision::Quantized);
    let kl: Vec<f64> = float.iter().zip(&quantized).map(|(f, q)| divergence(f, q)).collect();
    let n = IMAGES as f64;
    let mean = kl.iter().sum::<f64>() / n;
    let variance = kl.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let same = float.iter().zip(&quantized).filter(|(f, q)| largest(f) == largest(q)).count() as f64 / n;
    close(number(&saved["quantized"], "kl"), mean);
    close(number(&saved["quantized"], "kl_standard_error"), (variance / n).sqrt());
    close(number(&saved["quantized"], "agreement"), 100.0 * same);
    close(number(&saved["quantized"], "agreement_standard_error"), 100.0 * (same * (1.0 - same) / n).sqrt());

    // The table has a column for each.
    let table = qdrop(&[&["quantize", "demo"], &arguments[..arguments.len() - 2]].concat());
    assert!(table.ok, "{}", table.stderr);
    let heading = table.stdout.lines().next().unwrap();
    assert!(heading.contains("agreement %") && heading.contains("KL (nats)"), "{}", table.stdout);
    assert!(table.stdout.contains(&format!("{mean:.4} (")), "{}", table.stdout);
}

#[test]
fn float_against_float_is_exactly_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(nearest().set("quant.overrides=[{match: '*', float: true}]"), &out);
    let without = qdrop(&["evaluate", text(&out), "--json"]).json();
    assert!(without["kl"].is_null(), "only when it is asked for");
    let line = qdrop(&["evaluate", text(&out), "--against-float"]);
    let want = format!(
        "agreement 100.00 % (standard error 0.00), KL (nats) 0.0000 (standard error 0.0000) of {IMAGES} images\n"
    );
    assert!(line.ok && line.stdout.ends_with(&want), "{}{}", line.stdout, line.stderr);
    let measured = Evaluation::new(&out).against_float().run().unwrap().measured;
    let value = |key: &str| measured.values[key];
    assert_eq!((value("kl"), value("kl_standard_error")), (0.0, 0.0));
    assert_eq!((value("agreement"), value("agreement_standard_error")), (100.0, 0.0));
    assert_eq!(Some(value("top1")), without["top1"].as_f64());
    let usage = qdrop(&["evaluate", "demo", "--float", "--against-float"]);
    assert!(usage.error().contains("cannot be used with"), "{}", usage.stderr);
}

#[test]
fn two_results_are_compared_image_by_image() {
    let (_dir, [a, b]) = two();
    let compared = qdrop(&["compare", text(&a), text(&b), "--json"]).json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&compared), ["a", "b", "metrics"]);
    assert_eq!(keys(&compared["a"]), ["bits", "measured", "path", "recipe"]);
    assert_eq!((&compared["b"]["bits"], &compared["b"]["path"]), (&"w3a4".into(), &text(&b).into()));
    assert_eq!(keys(&compared["metrics"]), ["agreement", "kl", "top1"]);
    let of_means = ["a", "a_standard_error", "b", "b_standard_error", "difference", "difference_standard_error"];
    assert_eq!(keys(&compared["metrics"]["kl"]), of_means);
    let of_shares = [&of_means[..], &["both", "mcnemar_p", "neither", "only_a", "only_b"]].concat();
    let mut sorted = of_shares.clone();
    sorted.sort_unstable();
    assert_eq!(keys(&compared["metrics"]["top1"]), sorted);

    // Each result is what its own evaluation measures.
    for (name, dir) in [("a", &a), ("b", &b)] {
        let alone = qdrop(&["evaluate", text(dir), "--against-float", "--json"]).json();
        assert_eq!(compared[name]["measured"], alone);
        for metric in ["agreement", "kl", "top1"] {
            assert_eq!(compared["metrics"][metric][name], alone[metric]);
            close(
                number(&compared["metrics"][metric], &format!("{name}_standard_error")),
                number(&alone, &format!("{metric}_standard_error")),
            );
        }
    }
    let n = IMAGES as f64;
    for metric in ["agreement", "top1"] {
        let value = &compared["metrics"][metric];
        let [both, only_a, only_b, neither] = ["both", "only_a", "only_b", "neither"].map(|key| number(value, key));
        assert_eq!(both + only_a + only_b + neither, n);
        close(number(value, "a"), 100.0 * (both + only_a) / n);
        close(number(value, "b"), 100.0 * (both + only_b) / n);
        close(number(value, "difference"), 100.0 * (only_b - only_a) / n);
        let error = 100.0 * (only_a + only_b - (only_b - only_a).powi(2) / n).sqrt() / n;
        close(number(value, "difference_standard_error"), error);
        assert!(only_a + only_b > 0.0 && number(value, "mcnemar_p") < 1.0, "{value}");
    }
    let kl = &compared["metrics"]["kl"];
    close(number(kl, "difference"), number(kl, "b") - number(kl, "a"));
    assert!(number(kl, "difference_standard_error") > 0.0);

    let table = qdrop(&["compare", text(&a), text(&b)]);
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines[0], format!("A: {}, recipe demo, w2a4", a.display()));
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>().join(" "),
        "A B B - A both only A only B neither McNemar p"
    );
    for (line, start) in
        lines[3..].iter().zip(["top-1 % ", "agreement % ", "KL (nats) ", "150 images; standard errors"])
    {
        assert!(line.starts_with(start), "{}", table.stdout);
    }
}

#[test]
fn a_result_does_not_differ_from_itself() {
    let (_dir, [a, _]) = two();
    let compared = qdrop::compare(&a, &a).unwrap();
    assert_eq!(compared.a, compared.b);
    assert_eq!(compared.metrics.iter().map(|m| m.metric.key.as_str()).collect::<Vec<_>>(), ["top1", "agreement", "kl"]);
    for m in &compared.metrics {
        assert_eq!((m.difference, m.difference_standard_error), (0.0, Some(0.0)));
        if let Some(counts) = m.counts {
            assert_eq!((counts.only_a, counts.only_b, counts.mcnemar_p), (0, 0, 1.0));
        }
    }
    // Nor does the float network, whose values are computed once for both.
    let session = Run::new(load(&a).unwrap()).unwrap();
    let session = session.session().unwrap();
    let float = session.float_model().unwrap();
    let again = session.evaluate_pairs(&[Pair { quantized: &float, float: &float }; 2], &Silent).unwrap();
    assert_eq!(again[0], again[1]);
    assert_eq!(again[0].images[2].values, vec![0.0; IMAGES]);
}

#[test]
fn results_that_do_not_fit_are_refused() {
    let (dir, [a, _]) = two();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for nothing in [&empty, &dir.path().join("missing")] {
        let error = qdrop(&["compare", text(&a), text(nothing)]);
        let want = format!("data {}: holds no saved result: summary.json is missing", nothing.display());
        assert!(error.error().contains(&want), "{}", error.stderr);
    }
    // Another preprocessing, and fewer images.
    let other = dir.path().join("other");
    run(nearest().set("data.params.mean=0.5").set("evaluation.images=40"), &other);
    let error = qdrop(&["compare", text(&a), text(&other), "--json"]);
    let want = format!(
        "comparing the results: data {}: cannot be compared with {} image by image: `data.params.mean` is 0.5 here and \
         0.286 there; results can be compared if task, classes and images are the same",
        other.display(),
        a.display()
    );
    assert!(error.error().contains(&want), "{}", error.stderr);
    // Other images for calibration are no difference.
    let calibrated = dir.path().join("calibrated");
    let test = |key: &str, file: &str| {
        format!("data.params.{key}={}", fixture(&format!("../cli/demo/t10k-{file}-ubyte.gz")).display())
    };
    let of_test = nearest().set(test("train_images", "images-idx3")).set(test("train_labels", "labels-idx1"));
    run(of_test, &calibrated);
    let compared = Comparison::new(&a, &calibrated).run().unwrap();
    assert_ne!(compared.a.measured, compared.b.measured);
    let fewer = dir.path().join("fewer");
    run(nearest().set("evaluation.images=40"), &fewer);
    let compared = Comparison::new(&a, &fewer).run().unwrap();
    assert_eq!((compared.a.measured.images, compared.b.measured.images), (40, 40));

    // Other images, unless both are measured on the same.
    let moved = dir.path().join("images");
    std::fs::create_dir(&moved).unwrap();
    for file in std::fs::read_dir(fixture("../cli/demo")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), moved.join(file.file_name())).unwrap();
    }
    let elsewhere = dir.path().join("elsewhere");
    run(nearest().data(&moved), &elsewhere);
    let error = Comparison::new(&a, &elsewhere).run().unwrap_err().to_string();
    assert!(error.contains(&format!("`data_root` is {} here and not given there", moved.display())), "{error}");
    let compared = Comparison::new(&a, &elsewhere).data(&moved).run().unwrap();
    assert_eq!(compared.a.measured, compared.b.measured);

    // Another task.
    let waves = dir.path().join("waves");
    Run::new(crate::tasks::recipe(dir.path(), &[])).unwrap().out(&waves).unwrap().quantize().unwrap();
    let error = qdrop::compare(&a, &waves).unwrap_err();
    assert!(matches!(error, Error::Stage { stage: Stage::Comparison, .. }), "{error}");
    let error = error.to_string();
    for difference in [
        "`task` is mean_absolute_error here and classification there",
        "the target of an image is 3 numbers here and one of 10 classes there",
        "the input's shape is [2, 8, 8] here and [1, 28, 28] there",
        "`data.name` is waves here and idx there",
    ] {
        assert!(error.contains(difference), "{error}");
    }
    let error = qdrop::compare(&waves, &waves).unwrap_err().to_string();
    assert!(
        error.ends_with("task: the task 'mean_absolute_error' does not compare networks image by image"),
        "{error}"
    );
}

#[test]
fn the_float_weights_must_be_those_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (weights, out) = (dir.path().join("weights.safetensors"), dir.path().join("out"));
    std::fs::copy(fixture("../cli/demo/weights.safetensors"), &weights).unwrap();
    run(nearest().weights(&weights), &out);
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let bias = tensors.get_mut("fc.bias").unwrap();
    *bias = bias.affine(1.0, 0.5).unwrap();
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let want = format!(
        "loading the float network: weights {}: is not the checkpoint that the run began with",
        weights.display()
    );
    for arguments in [vec!["evaluate", text(&out), "--against-float"], vec!["compare", text(&out), text(&out)]] {
        let error = qdrop(&arguments);
        assert!(error.error().contains(&want), "{}", error.stderr);
    }
    assert!(qdrop(&["evaluate", text(&out)]).ok, "without the float network its weights are not needed");
}
