//! `check` and a dry run refuse what a run would refuse, and 0 is refused wherever it means nothing.

use crate::support::*;
use std::path::Path;

fn with(start: &[&str], changes: &[&str]) -> Run {
    let mut arguments = start.to_vec();
    changes.iter().for_each(|change| arguments.extend(["--set", change]));
    qdrop(&arguments)
}

/// Holds `check`, a dry run and a run to the same error, and the run to leaving nothing behind.
#[track_caller]
fn all_refuse(recipe: &str, changes: &[&str], message: &str) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let starts: [&[&str]; 3] =
        [&["check", recipe], &["quantize", recipe, "--dry-run"], &["quantize", recipe, "--out", out.to_str().unwrap()]];
    for start in starts {
        let run = with(start, changes);
        assert!(run.error().contains(message), "{start:?}: {}", run.stderr);
    }
    assert!(!out.join("run.json").exists());
}

/// Idx files with this many small images, and the recipe of a network for them with random weights.
fn small_data(dir: &Path, count: u32) -> std::path::PathBuf {
    let header = |magic: u32, dims: &[u32]| [&[magic], dims].concat().iter().flat_map(|v| v.to_be_bytes()).collect();
    for split in ["train", "test"] {
        let mut images: Vec<u8> = header(0x0803, &[count, 8, 8]);
        images.extend((0..count * 64).map(|i| (i % 251) as u8));
        std::fs::write(dir.join(format!("{split}.images")), images).unwrap();
        let mut labels: Vec<u8> = header(0x0801, &[count]);
        labels.extend((0..count).map(|i| (i % 4) as u8));
        std::fs::write(dir.join(format!("{split}.labels")), labels).unwrap();
    }
    let recipe = "
name: small
model:
  architecture: {name: resnet18, params: {classes: 4, in_channels: 1, image_size: 8, width: 4, stem: small}}
data:
  name: idx
  params: {train_images: train.images, train_labels: train.labels, test_images: test.images, test_labels: test.labels}
quant:
  setting: qdrop
  weight: {bits: 4, granularity: per_channel, observer: minmax, quantizer: adaround}
  activation: {bits: 8, granularity: per_tensor, observer: minmax, quantizer: lsq}
calibration: {images: 64, observe: 16}
reconstruction: {name: qdrop, params: {iters: 4, batch_size: 16}}
";
    let file = dir.join("small.yaml");
    std::fs::write(&file, recipe).unwrap();
    file
}

#[test]
fn a_batch_larger_than_the_calibration_set() {
    all_refuse(
        "demo",
        &["calibration.images=20"],
        "params.batch_size: the calibration set has 20 images, fewer than a batch",
    );
    let dir = tempfile::tempdir().unwrap();
    let few = small_data(dir.path(), 10);
    let run = qdrop(&["check", text(&few)]);
    assert!(run.error().contains("the calibration set has 10 images, fewer than a batch of 16"), "{}", run.stderr);
    // Without weights a dry run checks the images too.
    let run = qdrop(&["quantize", text(&few), "--dry-run"]);
    assert!(run.error().contains("the calibration set has 10 images, fewer than a batch of 16"), "{}", run.stderr);
    let enough = with(&["check", text(&few)], &["reconstruction.params.batch_size=10"]);
    assert!(enough.ok, "{}", enough.stderr);
}

#[test]
fn the_plan_is_that_of_the_images_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let small = small_data(dir.path(), 24);
    let warning = "the calibration set has 24 images, the recipe asks for 64; using all";
    let planned = |changes: &[&str]| {
        let run = with(&["quantize", text(&small), "--dry-run", "--json"], changes);
        let warnings = run.stderr.matches("using all").count();
        (run.json()["plan"]["cache_bytes"].as_u64().unwrap(), warnings, run.stderr)
    };
    let (exact, none, _) = planned(&["calibration.images=24"]);
    let (more, one, stderr) = planned(&[]);
    // The stem's output, 4 x 8 x 8: input and output of the first block, float and quantized, 4 bytes each.
    assert_eq!((exact, more), (24 * 4 * 4 * 4 * 8 * 8, exact));
    assert_eq!((none, one), (0, 1), "{stderr}");
    assert!(stderr.contains(warning), "{stderr}");
    let checked = qdrop(&["check", text(&small)]);
    assert!(checked.ok && checked.stderr.matches(warning).count() == 1, "{}", checked.stderr);
    let weights = fixture("../cli/demo/weights.safetensors");
    let run = with(
        &["quantize", "demo", "--weights", text(&weights), "--iters", "1"],
        &["calibration={images: 100000, observe: 4}", "evaluation.images=10", "compare=[]", "reconstruction=none"],
    );
    assert!(run.ok && run.stderr.matches("the recipe asks for 100000; using all").count() == 1, "{}", run.stderr);
}

#[test]
fn units_that_cannot_be_reconstructed() {
    all_refuse("demo", &["quant.activation.quantizer=adaround"], "adaround rounds weights; use lsq for activations");
    let learned = "quant.weight.quantizer={name: adaround, params: {learn_scale: true}}";
    all_refuse("demo", &[learned], "is of the group 'weight_scale', for which the reconstructor has no learning rate");
    let run = with(&["check", "demo"], &[learned, "reconstruction.params.rates={weight_scale: 1e-4}"]);
    assert!(run.ok, "{}", run.stderr);
    // The fused engine knows merged blocks, but not per-channel activations.
    let run = with(&["check", "demo"], &["reconstruction.merge=[[layer1.0, layer1.1]]", "engine=fused"]);
    assert!(run.ok, "{}", run.stderr);
    let channels = ["quant.activation.granularity=per_channel", "quant.activation.observer=mse"];
    all_refuse("demo", &[channels[0], channels[1], "engine=fused"], "the fused engine cannot compute this unit");
    let correction = "reconstruction.params.distribution_correction={}";
    all_refuse(
        "demo",
        &[channels[0], channels[1], correction, "engine=fused"],
        "the fused engine cannot compute this unit",
    );
    assert!(with(&["check", "demo"], &[channels[0], channels[1], correction]).ok);
}

#[test]
fn variants_are_checked_with_the_recipe() {
    let variant = |set: &str| format!("compare=[{{name: other, set: {{{set}}}}}]");
    for (set, message) in [
        ("quant.weight.bits: 99", "quant.weight.bits: 99 bits are not supported"),
        ("quant.weight.observer: mze", "did you mean 'mse'?"),
        ("reconstruction.params.batch_size: 2000", "the calibration set has 1024 images, fewer than a batch of 2000"),
        ("quant.activation.quantizer: adaround", "adaround rounds weights"),
        ("model.weights: /none.pth", "cannot read /none.pth"),
        ("model.architecture.params.image_size: 32", "model.architecture: a variant cannot change it"),
        ("data.params.mean: 0.5", "data: a variant cannot change it"),
        ("calibration.images: 512", "calibration.images: a variant cannot change it"),
        ("cache.limit: 1MiB", "cache: a variant cannot change it"),
        ("seeed: 1", "unknown field `seeed`"),
    ] {
        all_refuse("demo", &[&variant(set)], "error: variant 'other': ");
        let run = with(&["check", "demo"], &[&variant(set)]);
        assert!(run.error().contains(message), "{set}: {}", run.stderr);
    }
}

#[test]
fn places_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let spill = format!("cache.spill={}/cache", file.display());
    all_refuse("demo", &[&spill], "is a file");
    for (out, message) in [(file.join("out"), "is a file"), (dir.path().into(), "is not empty (it holds 'file')")] {
        let run = qdrop(&["quantize", "demo", "--dry-run", "--out", text(&out)]);
        assert!(run.error().contains(message), "{}", run.stderr);
    }
    let new = dir.path().join("new/out");
    assert!(qdrop(&["quantize", "demo", "--dry-run", "--iters", "1", "--out", text(&new)]).ok);
    assert!(!new.parent().unwrap().exists(), "a dry run writes nothing");
}

#[test]
fn zero_is_refused_by_every_command_that_reads_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let starts: [&[&str]; 5] = [
        &["check", "demo"],
        &["quantize", "demo"],
        &["quantize", "demo", "--dry-run"],
        &["evaluate", "demo", "--float"],
        &["describe", "demo"],
    ];
    let keys = [
        "calibration.images",
        "calibration.observe",
        "evaluation.images",
        "evaluation.batch_size",
        "run_iters",
        "model.architecture.params.classes",
        "model.architecture.params.in_channels",
        "model.architecture.params.image_size",
        "model.architecture.params.width",
        "reconstruction.params.batch_size",
        "reconstruction.params.iters",
    ];
    for start in starts {
        for key in keys {
            let run = with(start, &[&format!("{key}=0")]);
            assert!(run.error().contains(&format!("{key}: must be at least 1")), "{start:?} {key}: {}", run.stderr);
        }
        let run = with(start, &["cache.limit=0"]);
        assert!(run.error().contains("cache.limit: must not be 0"), "{}", run.stderr);
        for threads in ["0", "100000"] {
            let run = qdrop(&[start, &["--threads", threads]].concat());
            assert!(run.error().contains(&format!("--threads {threads}")), "{}", run.stderr);
            assert!(run.stderr.contains("use 1 to 1024: every thread has buffers"), "{}", run.stderr);
        }
    }
    for (network, key) in [("mobilenet_v2", "classes"), ("mnasnet", "in_channels"), ("regnetx_600m", "image_size")] {
        let run = with(&["describe", network], &[&format!("model.architecture.params.{key}=0")]);
        let message = format!("model.architecture.params.{key}: must be at least 1");
        assert!(run.error().contains(&message), "{}", run.stderr);
    }
    for option in ["--iters", "--pairs"] {
        let run = qdrop(&["bench", "mobilenet_v2.features.16", option, "0"]);
        assert!(run.error().contains(option), "{}", run.stderr);
    }
    // The recipe of a saved result.
    let out = dir.path().join("out");
    let short = ["calibration={images: 32, observe: 4}", "compare=[]", "evaluation.images=10", "reconstruction=none"];
    assert!(with(&["quantize", "demo", "--out", text(&out)], &short).ok);
    let recipe = std::fs::read_to_string(out.join("recipe.yaml")).unwrap();
    std::fs::write(out.join("recipe.yaml"), recipe.replace("  images: 10\n", "  images: 0\n")).unwrap();
    let run = qdrop(&["evaluate", text(&out)]);
    assert!(run.error().contains("recipe.yaml: evaluation.images: must be at least 1"), "{}", run.stderr);
}
