//! The built-in COCO recipes: each one is valid and runs from end to end on a small scale, and a run that is killed and resumed
//! ends as one that was not.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop_core::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Detectors with the published AP of the float network, W4A4 and W2A4 (QDrop's branch for COCO).
const DETECTORS: [(&str, f64, [f64; 2]); 4] = [
    ("faster_rcnn_r50", 38.4, [37.0, 35.0]),
    ("faster_rcnn_r101", 39.8, [38.0, 36.2]),
    ("retinanet_r50", 37.4, [35.8, 34.0]),
    ("retinanet_r101", 38.9, [37.3, 35.8]),
];
const BITS: [&str; 2] = ["w4a4", "w2a4"];
/// What makes the recipes small: pictures, networks and the calibration set.
const SMALL: [&str; 7] = [
    "data.params={short: 64, long: 96}",
    "model.architecture.params={image_size: [64, 96], width: 8, pyramid: 16, hidden: 32}",
    "calibration.images=6",
    "calibration.observe=6",
    "reconstruction.params.accumulate=2",
    "evaluation.images=6",
    // With random weights the published value cannot be reached.
    "published=null",
];

/// Real pictures of COCO where they are, and generated ones elsewhere.
fn pictures(dir: &Path) -> PathBuf {
    shared("data/coco-sample").unwrap_or_else(|| generated(dir))
}

/// A folder in COCO's format: 80 categories, and pictures of several sizes with boxes.
fn generated(dir: &Path) -> PathBuf {
    let root = dir.join("coco");
    std::fs::create_dir_all(root.join("annotations")).unwrap();
    let categories: Vec<String> =
        (0..80).map(|i| format!(r#"{{"id": {}, "name": "category {i}"}}"#, i + 1 + i / 9)).collect();
    for (split, count) in [("train2017", 12), ("val2017", 6)] {
        std::fs::create_dir_all(root.join(split)).unwrap();
        let (mut images, mut annotations) = (Vec::new(), Vec::new());
        for i in 0..count {
            let (width, height) = [(96, 64), (64, 90), (120, 60), (70, 100)][i % 4];
            let random = qdrop_core::kernels::random::Stream { seed: i as u64, id: [count as u32, 7, 0] };
            let pixels = (0..width * height * 3).map(|p| (random.uniform(p) * 255.0) as u8).collect();
            let picture = image::RgbImage::from_raw(width as u32, height as u32, pixels).unwrap();
            let name = format!("{:012}.png", i + 1);
            picture.save(root.join(split).join(&name)).unwrap();
            let id = i + 1;
            images.push(format!(r#"{{"id": {id}, "file_name": "{name}", "width": {width}, "height": {height}}}"#));
            annotations.push(format!(
                r#"{{"id": {id}, "image_id": {id}, "category_id": {}, "bbox": [5, 6, 30, 25], "area": 700, "iscrowd": 0}}"#,
                1 + i % 9
            ));
        }
        let lists = [images, annotations, categories.clone()].map(|list| list.join(", "));
        let [images, annotations, categories] = lists;
        let json = format!(r#"{{"images": [{images}], "annotations": [{annotations}], "categories": [{categories}]}}"#);
        std::fs::write(root.join(format!("annotations/instances_{split}.json")), json).unwrap();
    }
    root
}

/// A checkpoint with random weights for the recipe's detector, whose classes are sure of something.
fn weights(dir: &Path, name: &str) -> PathBuf {
    let recipe = SMALL.iter().fold(Loader::new(name), |loader, set| loader.set(*set)).load().unwrap();
    let strategy = &recipe.model.architecture;
    let architecture = registries().architectures.get(&strategy.name, "test").unwrap().build().unwrap();
    let params = strategy.params_at("model.architecture");
    let graph = architecture.graph(&params).unwrap();
    let head = architecture.head(&params).unwrap().unwrap();
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let x = noise(&shape, i as u32);
        let fan_in: usize = shape[1..].iter().product();
        let sure = if name.contains("classes") || name.contains("scores") { 6.0 } else { 1.0 };
        let value = match shape.len() {
            1 if name.ends_with("weight") || name.ends_with("running_var") => x.affine(0.3, 1.0),
            1 => x.affine(0.1, 0.0),
            _ => x.affine(sure * (3.0 / fan_in as f64).sqrt(), 0.0),
        };
        (name, value.unwrap())
    };
    let shapes = graph.parameter_shapes().into_iter().chain(head.parameters());
    let tensors: HashMap<String, Tensor> = shapes.enumerate().map(parameter).collect();
    let file = dir.join(format!("{}.safetensors", strategy.name));
    candle_core::safetensors::save(&tensors, &file).unwrap();
    file
}

/// The arguments that make a recipe small.
fn small() -> Vec<&'static str> {
    SMALL.iter().flat_map(|set| ["--set", set]).collect()
}

fn cells_of(detector: &str) {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures(dir.path());
    let (_, float, quantized) = DETECTORS.into_iter().find(|(name, ..)| *name == detector).unwrap();
    let weights = weights(dir.path(), &format!("coco/{detector}_w4a4"));
    let given = ["--data", text(&data), "--weights", text(&weights), "--iters", "2"];
    for (bits, published) in BITS.into_iter().zip(quantized) {
        let name = format!("coco/{detector}_{bits}");
        let shown = qdrop(&["recipes", "show", &name, "--json"]).json();
        let want = (&bits[1..2], &bits[3..4]);
        assert_eq!(shown["quant"]["weight"]["bits"].to_string(), want.0, "{name}");
        assert_eq!(shown["quant"]["activation"]["bits"].to_string(), want.1, "{name}");
        assert_eq!(shown["quant"]["setting"], "first_weight", "{name}");
        assert_eq!(
            shown["published"],
            serde_json::from_str::<serde_json::Value>(&format!(
                r#"{{"float": {float:.1}, "quantized": {published:.1}}}"#
            ))
            .unwrap(),
            "{name}"
        );
        let out = dir.path().join(format!("{detector}_{bits}"));
        let arguments = [&["quantize", &name, "--json", "--out", text(&out)], &given[..], &small()].concat();
        let run = qdrop(&arguments).json();
        assert_eq!(run["quantized"]["images"], 6, "{name}");
        let units = run["units"].as_array().unwrap();
        let names: Vec<&str> = units.iter().map(|unit| unit["name"].as_str().unwrap()).collect();
        let (blocks, neck) = (if detector.ends_with("r50") { 16 } else { 33 }, 8);
        assert_eq!(names.len(), 1 + blocks + neck, "{name}: {names:?}");
        assert_eq!((names[0], names[1], names[1 + blocks]), ("conv1", "layer1.0", "lateral.0"), "{name}");
        let found = dir.path().join("found.json");
        let evaluated = qdrop(&["evaluate", text(&out), "--json", "--detections", text(&found)]).json();
        assert_eq!(evaluated["ap"], run["quantized"]["ap"], "{name}");
        let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&found).unwrap()).unwrap();
        let found = found.as_array().unwrap();
        assert!(!found.is_empty(), "{name}: random classes are sure of something");
        assert!(found
            .iter()
            .all(|row| row["category_id"].as_u64().unwrap() <= 90 && row["bbox"][2].as_f64().unwrap() >= 0.0));
        let exported = qdrop(&[
            "export",
            text(&out),
            "--format",
            "onnx",
            "--out",
            text(&dir.path().join(format!("{bits}.onnx"))),
            "--json",
        ]);
        let notes = exported.json()["notes"].to_string();
        assert!(notes.contains("head is not written") && notes.contains("64 x 96 pixels"), "{name}: {notes}");
        // What helps beyond the published settings.
        let name = format!("best/{detector}_{bits}");
        let best = qdrop(&[&["quantize", &name, "--json"], &given[..], &small()].concat()).json();
        assert!(best["bits"] == bits && best["prepared"][0][0] == "equalize", "{name}");
        assert!((0.0..=1.0).contains(&best["quantized"]["agreement"].as_f64().unwrap()), "{name}");
        assert!(Loader::new(&name).load().unwrap().published.is_none(), "{name}");
    }
}

#[test]
fn every_cell_of_faster_rcnn_runs() {
    cells_of("faster_rcnn_r50");
    cells_of("faster_rcnn_r101");
}

#[test]
fn every_cell_of_retinanet_runs() {
    cells_of("retinanet_r50");
    cells_of("retinanet_r101");
}

/// Pictures of what is annotated and of what both networks find, of saved results and of recipes.
#[test]
fn what_networks_find_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let (data, name) = (generated(dir.path()), "coco/retinanet_r50_w4a4");
    let weights = weights(dir.path(), name);
    let (given, small) = (["--data", text(&data), "--weights", text(&weights)], small());
    let out = dir.path().join("result");
    let run = qdrop(&[&["quantize", name, "--iters", "1", "--out", text(&out)], &given[..], &small].concat());
    assert!(run.ok, "{}", run.stderr);
    let of_float = [&["evaluate", name, "--float"], &given[..], &small].concat();
    let folder = |name: &str| dir.path().join(name);
    let size = |file: &Path| image::image_dimensions(file).unwrap();
    let [both, float] = ["both", "float/below"].map(folder);
    // The measurement is the same.
    let [plain, drawn] = [&[][..], &["--draw", text(&both), "--drawn", "3"]]
        .map(|more| qdrop(&[&["evaluate", text(&out), "--json"], more].concat()).json());
    assert_eq!(plain, drawn);
    let mut names: Vec<_> = std::fs::read_dir(&both).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["000000000001.png", "000000000002.png", "000000000003.png"]);
    // 96 x 64, 64 x 90 and 120 x 60 pixels, three of each side by side below a line of text.
    let sizes = names.iter().map(|name| size(&both.join(name)));
    assert_eq!(sizes.collect::<Vec<_>>(), [(1936, 443), (1381, 657), (1936, 337)]);
    assert!(qdrop(&[&of_float[..], &["--draw", text(&float)]].concat()).ok);
    assert_eq!(std::fs::read_dir(&float).unwrap().count(), 6);
    assert_eq!(size(&float.join("000000000001.png")), (1288, 443));
    // What cannot be written is said before anything is measured, and what was there stays.
    let file = folder("found.json");
    std::fs::write(&file, "old").unwrap();
    let below = file.join("below");
    for (option, path) in [("--draw", &file), ("--detections", &below), ("--detections", &both)] {
        let refused = qdrop(&["evaluate", text(&out), option, text(path)]);
        assert!(!refused.ok && refused.stderr.contains(text(path)), "{}", refused.stderr);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
    // The float network is drawn, so its checkpoint must be there.
    std::fs::remove_file(&weights).unwrap();
    let refused = qdrop(&["evaluate", text(&out), "--draw", text(&both)]);
    assert!(!refused.ok && refused.stderr.contains("retinanet_r50_fpn.safetensors"), "{}", refused.stderr);
    assert!(qdrop(&["evaluate", text(&out), "--detections", text(&file)]).ok);
}

/// Everything that helps beyond the published settings, on pictures of several sizes; and nothing changes if values are in files.
#[test]
fn recipes_with_everything_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let (data, name) = (generated(dir.path()), "best/retinanet_r50_w4a4");
    let weights = weights(dir.path(), name);
    let small = small();
    let given = ["quantize", name, "--data", text(&data), "--weights", text(&weights), "--iters", "4", "--json"];
    for dtype in ["cache.dtype=f32", "cache.dtype=f16"] {
        // Without memory, values that the pyramid reads are computed again.
        let [memory, files] = ["4GiB", "1KiB"].map(|limit| {
            let limit = format!("cache.limit={limit}");
            let run = qdrop(&[&given[..], &small, &["--set", &limit, "--set", dtype]].concat()).json();
            assert_eq!(run["prepared"][0][0], "equalize", "{run}");
            let agreement = run["quantized"]["agreement"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&agreement), "{run}");
            let losses = run["units"].as_array().unwrap().iter().map(|unit| unit["losses"].to_string());
            (losses.collect::<Vec<_>>(), run["quantized"].to_string())
        });
        assert!(memory == files, "{dtype}");
    }
}

/// Runs are killed after a unit, and interrupted within another one, between the pairs of a step.
#[test]
fn a_run_that_is_killed_and_resumed_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, name) = (pictures(dir.path()), "coco/retinanet_r50_w4a4");
    let weights = weights(dir.path(), name);
    let small = small();
    let given = ["quantize", name, "--data", text(&data), "--weights", text(&weights), "--iters", "30"];
    let arguments = |out: &Path| -> Vec<String> {
        let own = ["--out", text(out)];
        given.iter().chain(&small).chain(&own).map(|argument| (*argument).to_string()).collect()
    };
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    let run = |arguments: &[String]| qdrop(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let uninterrupted = run(&arguments(&whole));
    assert!(uninterrupted.ok, "{}", uninterrupted.stderr);
    for (signal, unit) in [("-KILL", 3), ("-INT", 9)] {
        let resumes = stopped.join("run.json").exists();
        let mut command = with_default_signals(env!("CARGO_BIN_EXE_qdrop"));
        match resumes {
            true => command.args(["resume", text(&stopped)]),
            false => command.args(arguments(&stopped)),
        };
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (file, start) = (stopped.join(format!("checkpoints/unit-{unit:03}.safetensors")), Instant::now());
        while !file.exists() {
            assert!(start.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none(), "{signal}");
            std::thread::sleep(Duration::from_millis(2));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        child.wait().unwrap();
        assert!(!stopped.join("summary.json").exists(), "{signal}: the run was over before");
    }
    let resumed = qdrop(&["resume", text(&stopped)]);
    assert!(resumed.ok, "{}", resumed.stderr);
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(model(&whole) == model(&stopped));
}
