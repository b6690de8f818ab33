//! Plugins that do not fit or that misbehave: the program reports them and continues.

use crate::support::*;
use qdrop_core::plugin::{PluginFile, Verdict};
use std::path::{Path, PathBuf};

/// Writes a copy of the good plugin in which a text is replaced by another one of the same length.
fn patched(dir: &Path, name: &str, from: &str, to: &str) -> PathBuf {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(percentile()).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "'{from}' stands in the plugin");
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    let file = dir.join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

/// The error message when the plugin is loaded.
#[track_caller]
fn refusal(file: &Path) -> String {
    qdrop(&["--plugin", text(file), "list"]).error().to_string()
}

#[test]
fn other_builds_are_refused_before_they_run() {
    let dir = outside();
    let row = |name: &str| {
        let inspected = qdrop(&["plugin", "inspect", text(percentile()), "--json"]).json();
        inspected["stamp"][name].as_str().unwrap().to_string()
    };
    let source = row("source");
    let other_source: String = source.chars().rev().collect();
    for (name, from, to, want) in [
        ("rustc", "rustc: rustc 1.", "rustc: rustc 0.", "rustc is rustc 0.".to_string()),
        ("source", &source, &other_source, format!("source is {other_source} in the plugin and {source} here")),
        (
            "profile",
            "profile: release\n",
            "profile: debug\n\n\n",
            "profile is debug in the plugin and release here".into(),
        ),
        ("candle", "candle: 0.", "candle: 9.", "candle is 9.".into()),
        ("features", "features: none", "features: cuda", "features is cuda in the plugin and none here".into()),
    ] {
        let file = patched(dir.path(), &format!("{name}.so"), from, to);
        let message = refusal(&file);
        assert!(message.contains(&want), "{message}");
        assert!(message.contains("rebuild it with `qdrop plugin build"), "{message}");
        assert_eq!(message.matches(" in the plugin and ").count(), 1, "only the row that differs: {message}");
        let inspected = qdrop(&["plugin", "inspect", text(&file), "--json"]).json();
        assert_eq!(inspected["fits"], false);
        assert!(inspected["verdict"].as_str().unwrap().contains(&want), "{inspected}");
    }
}

#[test]
fn files_that_are_no_plugins_are_named() {
    let dir = outside();
    let good = std::fs::read(percentile()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    for (file, want) in [
        (write("text.so", b"not a library"), "is not a shared library of this system, or was cut off"),
        (write("empty.so", b""), "is not a shared library of this system, or was cut off"),
        (write("half.so", &good[..good.len() / 2]), "was cut off"),
        (write("head.so", &good[..100]), "was cut off"),
        (dir.path().join("absent.so"), "cannot find plugin"),
    ] {
        let message = refusal(&file);
        assert!(message.contains(want) && message.contains(text(&file)), "{message}");
    }
    // A file that is truncated anywhere gives an error and no panic.
    for length in (0..good.len()).step_by(good.len() / 40 + 1) {
        let file = write("cut.so", &good[..length]);
        assert!(PluginFile::inspect(&file).is_err(), "{length} of {} bytes", good.len());
    }
    let library = distribution().join("lib/libqdrop_dylib.so");
    // A library without a stamp, because the framework registers nothing.
    assert!(refusal(&library).contains("is not a qdrop plugin: it holds no stamp"), "{}", refusal(&library));
    let message = refusal(outside().path());
    assert!(message.contains("the folder holds no plugin"), "{message}");
}

#[test]
fn a_copy_of_the_framework_is_refused() {
    // It was built with this test, next to it.
    let own = std::env::current_exe().unwrap().with_file_name("libqdrop_own_copy.so");
    // It depends on the shared library, so only the check of the framework's identity can find the copy.
    let message = refusal(&own);
    assert!(message.contains("found another copy of qdrop-core than this program's"), "{message}");
    // Without this dependency, the file alone shows it.
    let bytes = std::fs::read(&own).unwrap();
    let dir = outside();
    let file = dir.path().join("own_copy.so");
    let from = b"libqdrop_dylib.so";
    let mut changed = bytes.clone();
    for place in (0..bytes.len() - from.len()).filter(|i| bytes[*i..].starts_with(from)) {
        changed[place..place + from.len()].copy_from_slice(b"libm_____.so\0\0\0\0\0");
    }
    std::fs::write(&file, changed).unwrap();
    let Verdict::Refused(reason) = PluginFile::inspect(&file).unwrap().verdict() else { panic!("it fits") };
    assert!(reason.contains("carries its own copy of qdrop-core"), "{reason}");
    assert!(refusal(&file).contains("carries its own copy of qdrop-core"));
}

#[test]
fn a_name_that_is_taken_names_both_sides() {
    let dir = outside();
    let folder = dir.path().join("minmax");
    qdrop(&["plugin", "new", text(&folder), "--kind", "observer"]).success();
    let built = qdrop(&["plugin", "build", text(&folder), "--json"]).json();
    let message = refusal(Path::new(built["path"].as_str().unwrap()));
    assert!(
        message.contains("observer 'minmax' is registered twice, by qdrop-plugins and by this plugin"),
        "{message}"
    );
}

#[test]
fn one_bad_plugin_does_not_hide_the_good_one() {
    let dir = outside();
    std::fs::copy(percentile(), dir.path().join("good.so")).unwrap();
    let bad = patched(dir.path(), "bad.so", "profile: release\n", "profile: debug\n\n\n");
    let run = qdrop(&["--plugin", text(dir.path()), "list", "observers", "--json"]);
    assert!(run.json()["observers"].as_array().unwrap().iter().any(|o| o["name"] == "percentile"));
    assert!(run.stderr.contains(&format!("warning: not loaded: plugin {}", text(&bad))), "{}", run.stderr);
    assert!(run.stderr.contains("profile is debug"), "{}", run.stderr);
}

#[test]
fn what_a_new_plugin_cannot_be() {
    let dir = outside();
    let at = |name: &str| dir.path().join(name);
    let run = qdrop(&["plugin", "new", text(&at("My Plugin")), "--kind", "observer"]);
    assert!(run.error().contains("'My Plugin' cannot be the name of a plugin"), "{}", run.stderr);
    let run = qdrop(&["plugin", "new", text(dir.path()), "--kind", "observer"]);
    assert!(run.error().contains("cannot be the name") || run.error().contains("exists already"), "{}", run.stderr);
    let run = qdrop(&["plugin", "build", text(dir.path())]);
    assert!(run.error().contains("holds no crate: Cargo.toml is missing"), "{}", run.stderr);
    qdrop(&["plugin", "new", text(&at("broken")), "--kind", "observer"]).success();
    std::fs::write(at("broken").join("src/lib.rs"), "fn f() { 1 + }").unwrap();
    let run = qdrop(&["plugin", "build", text(&at("broken"))]);
    assert!(run.error().contains("the plugin does not build") && run.stderr.contains("src/lib.rs:1"), "{}", run.stderr);
}

/// Every call of every kind of strategy, and the recipe settings that make it happen.
const CALLS: &[(&str, &str, &[&str])] = &[
    (
        "observer 'panicking_observer'",
        "quant.activation.observer={name: panicking_observer, params: {call: CALL}}",
        &["build", "observe", "range"],
    ),
    (
        "quantizer 'panicking_quantizer'",
        "quant.weight.quantizer={name: panicking_quantizer, params: {call: CALL}}",
        &[
            "build",
            "spec",
            "set_range",
            "qparams",
            "fake_quantize",
            "begin_reconstruction",
            "parameters",
            "regularizer",
            "kernel",
            "finish_reconstruction",
        ],
    ),
    (
        "reconstructor 'panicking_reconstructor'",
        "reconstruction={name: panicking_reconstructor, params: {call: CALL}}",
        &["build", "grouping", "check_samples", "shorten", "steps", "notice", "reconstruct"],
    ),
    (
        "architecture 'panicking_architecture'",
        "model.architecture={name: panicking_architecture, params: {call: CALL}}",
        &["graph", "key_maps"],
    ),
    (
        "dataset 'panicking_dataset'",
        "data={name: panicking_dataset, params: {call: CALL}}",
        &["build", "len", "targets", "sample"],
    ),
    (
        "task 'panicking_task'",
        "task={name: panicking_task, params: {call: CALL}} & published={float: 3.0} & evaluation.against_float=true",
        &[
            "build",
            "targets",
            "metrics",
            "meter",
            "image_metrics",
            "image_values",
            "comparison",
            "update",
            "compute",
            "observe",
            "problem",
        ],
    ),
];

#[test]
fn a_panic_names_the_plugin_and_leaves_the_run_directory_intact() {
    let dir = outside();
    let file = build_copy("tests/plugins/panics", dir.path());
    for (what, set, calls) in CALLS {
        for call in *calls {
            let out = dir.path().join(format!("{}-{call}", what.split(' ').next().unwrap()));
            let set = set.replace("CALL", call);
            let start = ["--plugin", text(&file), "quantize", "demo", "--out", text(&out)];
            let settings = set.split(" & ").flat_map(|set| ["--set", set]).collect::<Vec<_>>();
            let run = qdrop(&[&start, &settings[..], SMALL].concat());
            let want = format!("plugin 'panics': its {what} panicked in `{call}`: boom in {call}; this is a defect");
            assert!(run.error().contains(&want), "{}", run.stderr);
            if out.join("run.json").exists() {
                // Nothing is damaged: the resumed run fails with the same panic.
                let run = qdrop(&["resume", text(&out)]);
                assert!(run.error().contains(&want), "{}", run.stderr);
            }
        }
    }
    let out = dir.path().join("reconstructor-reconstruct");
    assert!(out.join("checkpoints/unit-002.safetensors").is_file(), "units before the panic are kept");
    let set = "model.architecture={name: panicking_architecture, params: {call: operator_forward}}";
    let run =
        qdrop(&["--plugin", text(&file), "quantize", "demo", "--dry-run", "--set", set, "--set", "model.weights=null"]);
    assert!(run.error().contains("plugin 'panics': its operator 'panicking' panicked in `forward`"), "{}", run.stderr);
}

/// A whole run with a plugin's task: run, report, saved result, evaluation.
#[test]
fn a_task_of_a_plugin_is_measured_reported_and_saved() {
    let dir = outside();
    let file = build_copy("tests/plugins/panics", dir.path());
    let out = dir.path().join("out");
    let set = ["--set", "task=panicking_task", "--set", "published={float: 3.0}"];
    let start = ["--plugin", text(&file), "quantize", "demo", "--json", "--out", text(&out)];
    let run = qdrop(&[&start, &set[..], SMALL].concat());
    let result = run.json();
    let size = result["quantized"]["size"].as_f64().unwrap();
    assert!(size > 0.1 && result["quantized"]["top1"].is_null(), "{result}");
    assert_eq!(result["rows"].as_array().unwrap().last().unwrap()["size"], size);
    // The table goes to stderr.
    assert!(run.stderr.contains("    bits  mean output size  "), "{}", run.stderr);
    let row = format!("  w2a4  {size:>16.4}  ");
    assert!(run.stderr.contains(&row), "'{row}' is not in: {}", run.stderr);
    let sample = " of a sample of 256 images, published 3.0000 of the validation set";
    assert!(run.stderr.contains(sample), "{}", run.stderr);
    let images = &result["quantized"]["images"];
    assert!(run.stderr.contains(&format!("seed 1005, {images} images, peak memory")), "{}", run.stderr);
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(saved["quantized"], result["quantized"]);
    let evaluated = qdrop(&["evaluate", text(&out)]);
    assert_eq!(evaluated.stdout, format!("mean output size {size:.4} of {images} images\n"));
}

#[test]
fn a_changed_plugin_is_not_resumed_with() {
    let dir = outside();
    let file = dir.path().join("percentile.so");
    std::fs::copy(percentile(), &file).unwrap();
    let out = dir.path().join("out");
    let set = "quant.activation.observer=percentile";
    qdrop(&[&["--plugin", text(&file), "quantize", "demo", "--out", text(&out), "--set", set], SMALL].concat())
        .success();
    // As if the run had been stopped before its end.
    std::fs::remove_file(out.join("summary.json")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.push(0);
    std::fs::write(&file, bytes).unwrap();
    let run = qdrop(&["resume", text(&out)]);
    assert!(
        run.error().contains("the run began with the plugin percentile.so, which was changed since"),
        "{}",
        run.stderr
    );
    std::fs::copy(percentile(), &file).unwrap();
    qdrop(&["resume", text(&out)]).success();
}
