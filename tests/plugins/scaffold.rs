//! New plugins from `plugin new` to a quantized network.

use crate::support::*;
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Creates a plugin in `dir`, builds it, and runs the conformance suite on it.
fn scaffold(dir: &Path, name: &str, kind: &str) -> PathBuf {
    let folder = dir.join(name);
    qdrop(&["plugin", "new", text(&folder), "--kind", kind, "--json"]).json();
    let built = qdrop(&["plugin", "build", text(&folder), "--json"]).json();
    let file = PathBuf::from(built["path"].as_str().unwrap());
    let inspected = qdrop(&["plugin", "inspect", text(&file), "--json"]).json();
    assert_eq!((&inspected["fits"], &inspected["entries"][0]["name"]), (&true.into(), &name.into()));
    let tested = qdrop(&["plugin", "test", text(&file), "--json"]).json();
    let checks = tested["checks"].as_array().unwrap();
    assert!(checks.iter().any(|c| c["outcome"] == "ok") && checks.iter().all(|c| c["outcome"] != "FAILED"));
    file
}

/// Quantizes the demo with a plugin and evaluates the saved result, whose recipe loads the plugin.
fn quantize(file: &Path, recipe: &str, small: &[&str], more: &[&str]) -> serde_json::Value {
    let dir = outside();
    let out = dir.path().join("out");
    let arguments =
        [&["--plugin", text(file), "quantize", recipe, "--json", "--out", text(&out)], small, more].concat();
    let result = qdrop(&arguments).json();
    let evaluated = qdrop(&["evaluate", text(&out), "--json"]).json();
    assert_eq!(evaluated["top1"], result["quantized"]["top1"]);
    result
}

#[test]
fn a_scaffolded_crate_passes_its_own_tests_and_quantizes_the_demo() {
    let dir = outside();
    for (kind, set) in [
        ("preparation", "prepare=[my_plugin_of_preparation]"),
        ("observer", "quant.activation.observer=my_plugin_of_observer"),
        ("quantizer", "quant.weight.quantizer=my_plugin_of_quantizer"),
        ("reconstructor", "reconstruction=my_plugin_of_reconstructor"),
    ] {
        let name = format!("my_plugin_of_{kind}");
        let file = scaffold(dir.path(), &name, kind);
        let own = Command::new(env!("CARGO")).arg("test").current_dir(dir.path().join(&name)).output().unwrap();
        let output = String::from_utf8_lossy(&own.stdout);
        assert!(own.status.success() && output.contains("tests::conforms ... ok"), "{output} {:?}", own.stderr);
        let result = quantize(&file, "demo", SMALL, &["--set", set]);
        assert_eq!(result["quantized"]["images"], 100);
    }
}

#[test]
fn a_scaffolded_exporter_passes_its_own_tests_and_writes_the_demo() {
    let dir = outside();
    let file = scaffold(dir.path(), "my_format", "exporter");
    let own = Command::new(env!("CARGO")).arg("test").current_dir(dir.path().join("my_format")).output().unwrap();
    let output = String::from_utf8_lossy(&own.stdout);
    assert!(own.status.success() && output.contains("tests::conforms ... ok"), "{output} {:?}", own.stderr);
    let out = dir.path().join("out");
    qdrop(&[&["quantize", "demo", "--json", "--out", text(&out)], SMALL].concat()).json();
    let arguments = ["--plugin", text(&file), "export", text(&out), "--format", "my_format", "--set", "weights=true"];
    let exported = qdrop(&[&arguments[..], &["--json"]].concat()).json();
    let written = std::fs::read_to_string(exported["files"][0]["path"].as_str().unwrap()).unwrap();
    assert!(written.contains("layer1.0.conv1 = conv2d(") && written.contains("4 bits, scale ["), "{written}");
    assert!(written.contains("weight [16, 16, 3, 3] ["), "{written}");
}

#[test]
fn a_scaffolded_architecture_brings_its_recipe() {
    let dir = outside();
    let file = scaffold(dir.path(), "my_network", "architecture");
    let listed = qdrop(&["--plugin", text(&file), "recipes", "--json"]).json();
    assert!(listed["recipes"].as_array().unwrap().iter().any(|r| r["name"] == "my_network/w4a4"));
    let described = qdrop(&["--plugin", text(&file), "describe", "my_network/w4a4", "--json"]).json();
    // A checkpoint with random values; `describe` prints the names and shapes.
    let mut tensors = HashMap::new();
    let mut add = |name: String, dims: &[usize], low: f64| {
        tensors.insert(
            name,
            Tensor::rand(low, 0.3 + 2.0 * low.max(0.0), dims, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap(),
        );
    };
    for unit in described["units"].as_array().unwrap() {
        for layer in unit["layers"].as_array().unwrap() {
            let (name, output) = (layer["name"].as_str().unwrap(), layer["output"][0].as_u64().unwrap() as usize);
            let dims: Vec<usize> =
                layer["weight"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            match layer["operation"].as_str().unwrap() {
                "batch_norm" => {
                    for (own, low) in [("weight", 0.5), ("bias", -0.3), ("running_mean", -0.3), ("running_var", 0.5)] {
                        add(format!("{name}.{own}"), &[output], low);
                    }
                }
                "linear" => {
                    add(format!("{name}.weight"), &dims, -0.3);
                    add(format!("{name}.bias"), &[output], -0.3);
                }
                "conv2d" => add(format!("{name}.weight"), &dims, -0.3),
                _ => {}
            }
        }
    }
    let weights = dir.path().join("weights.safetensors");
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let result = quantize(&file, "my_network/w4a4", SMALL, &["--weights", text(&weights)]);
    assert_eq!((&result["bits"], result["units"].as_array().unwrap().len()), (&"w4a4".into(), 4));
}

#[test]
fn the_worked_examples_conform_and_quantize_the_demo() {
    let dir = outside();
    for (name, set) in [
        ("percentile", "quant.activation.observer={name: percentile, params: {percentile: 99.9}}"),
        ("flexround", "quant.weight.quantizer=flexround"),
    ] {
        let file = build_copy(&format!("plugins/dynamic/{name}"), dir.path());
        qdrop(&["plugin", "test", text(&file)]).success();
        // Enough steps to distinguish a rounding that learns from one that makes the weights worse.
        let small = ["compare=[]", "calibration={images: 64, observe: 64}", "reconstruction.params.iters=20"];
        let small = small.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>();
        let result = quantize(
            &file,
            "demo",
            &small,
            &["--set", "evaluation.images=200", "--set", "quant.weight.bits=4", "--set", set],
        );
        assert!(result["quantized"]["top1"].as_f64().unwrap() > 85.0, "{result}");
    }
    let file = build_copy("plugins/dynamic/squeezenet", dir.path());
    qdrop(&["plugin", "test", text(&file)]).success();
    let described = qdrop(&["--plugin", text(&file), "describe", "imagenet/squeezenet_w4a4", "--json"]).json();
    // torchvision's documentation: 1,235,496 parameters, 0.35 G multiply-accumulates.
    assert_eq!(described["parameters"], 1_235_496);
    assert!((described["macs"].as_f64().unwrap() / 0.35e9 - 1.0).abs() < 0.02, "{}", described["macs"]);
}

#[test]
fn plugins_are_found_by_argument_recipe_and_environment() {
    let file = percentile();
    let has = |run: Run| {
        let list = run.json();
        list["observers"].as_array().unwrap().iter().any(|o| o["name"] == "percentile")
    };
    assert!(!has(qdrop(&["list", "observers", "--json"])));
    assert!(has(qdrop(&["--plugin", text(file), "list", "observers", "--json"])));
    // Loading a plugin twice is the same as loading it once.
    assert!(has(qdrop(&["--plugin", text(file), "--plugin", text(file), "list", "observers", "--json"])));
    let mut command = command(&["list", "observers", "--json"]);
    command.env("QDROP_PLUGIN_PATH", file);
    assert!(has(run(command)));
    let dir = outside();
    let recipe = dir.path().join("recipe.yaml");
    std::fs::copy(file, dir.path().join("p.so")).unwrap();
    let text_of_recipe = "extends: demo\nplugins: [p.so]\nquant: {activation: {observer: percentile}}\n";
    std::fs::write(&recipe, text_of_recipe).unwrap();
    let demo = repository("cli/demo");
    let weights = demo.join("weights.safetensors");
    let checked = qdrop(&["check", text(&recipe), "--json", "--data", text(&demo), "--weights", text(&weights)]);
    assert_eq!(checked.json()["valid"], true);
}

#[test]
fn tensors_of_a_plugin_are_the_programs() {
    let dir = outside();
    let file = build_copy("tests/plugins/twice", dir.path());
    // f(w) = sum((2 w)^2 u + w): the plugin computes the square, the program the rest.
    let tested = qdrop(&["plugin", "test", text(&file), "--json"]).json();
    let checks = tested["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["check"] == "gradients of its operators agree with finite differences");
    assert_eq!(check.unwrap()["outcome"], "ok", "{tested}");
}
