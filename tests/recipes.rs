//! The built-in ImageNet recipes: each one is valid and runs from end to end on a small scale. Configurations of the
//! reference implementation are converted to recipes.

use crate::support::*;
use qdrop::recipes::Loader;
use qdrop_core::kernels::random::Stream;
use qdrop_core::pipeline::{Resources, Session};
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::recipe::Recipe;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const ARCHITECTURES: [&str; 6] = ["resnet18", "resnet50", "mobilenet_v2", "regnetx_600m", "regnetx_3200m", "mnasnet"];
const BITS: [&str; 4] = ["w4a4", "w2a4", "w3a3", "w2a2"];
/// Published top-1 of the table's cells, in the order of `ARCHITECTURES` and `BITS` (README of the reference).
const PUBLISHED: [[f64; 4]; 6] = [
    [69.13, 64.38, 65.68, 51.69],
    [75.12, 70.31, 71.28, 55.18],
    [67.83, 54.29, 54.38, 11.95],
    [70.95, 63.07, 64.65, 39.13],
    [76.46, 71.84, 71.69, 54.40],
    [73.04, 63.28, 64.05, 23.66],
];
const LAMBDA: [f64; 6] = [0.01, 0.01, 0.1, 0.01, 0.01, 0.2];
/// ImageNet synsets of the images.
const CLASSES: [&str; 2] = ["n01440764", "n02123045"];

/// A data folder with a few small random images.
fn images(dir: &Path) -> PathBuf {
    let root = dir.join("data");
    for (split, count) in [("train", 4), ("val", 2)] {
        for class in CLASSES {
            let folder = root.join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let random = Stream { seed: i, id: [count as u32, class.len() as u32, 0] };
                let pixels = (0..40 * 44 * 3).map(|p| (random.uniform(p) * 255.0) as u8).collect();
                let image = image::RgbImage::from_raw(40, 44, pixels).unwrap();
                image.save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    root
}

/// A checkpoint with random weights for the recipe's architecture.
fn weights(dir: &Path, recipe: &serde_json::Value) -> PathBuf {
    let strategy = &recipe["model"]["architecture"];
    let name = strategy["name"].as_str().or(strategy.as_str()).unwrap();
    let params: serde_yaml::Value = serde_yaml::to_value(&strategy["params"]).unwrap();
    let architecture = registries().architectures.get(name, "test").unwrap().build().unwrap();
    let graph = architecture.graph(&Params::new("test", params)).unwrap();
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let x = noise(&shape, i as u32);
        let fan_in: usize = shape[1..].iter().product();
        let value = match shape.len() {
            1 if name.ends_with("weight") || name.ends_with("running_var") => x.affine(0.3, 1.0),
            1 => x.affine(0.1, 0.0),
            _ => x.affine((6.0 / fan_in as f64).sqrt(), 0.0),
        };
        (name, value.unwrap())
    };
    let tensors: HashMap<String, Tensor> = graph.parameter_shapes().into_iter().enumerate().map(parameter).collect();
    let file = dir.join(format!("{name}.safetensors"));
    candle_core::safetensors::save(&tensors, &file).unwrap();
    file
}

/// Every cell of the published table runs from end to end; a test for each network, so that they run side by side.
macro_rules! cells {
    ($($network:ident)*) => {
        mod every_cell_of_the_published_table_runs {
            $(
                #[test]
                fn $network() {
                    super::cells_of(stringify!($network));
                }
            )*

            #[test]
            fn these_are_all_networks() {
                assert_eq!([$(stringify!($network)),*], super::ARCHITECTURES);
            }
        }
    };
}

cells! { resnet18 resnet50 mobilenet_v2 regnetx_600m regnetx_3200m mnasnet }

/// Quantizes and evaluates without checks, files and a plan, which are the same for all bits. Returns the number of images
/// and of units.
fn quantized(recipe: Recipe) -> (usize, usize) {
    let session = Session::new(recipe, registries(), Device::Cpu).unwrap();
    let cache = session.cache(std::env::temp_dir());
    let images = session.calibration_images(&cache, &Silent).unwrap().images;
    let random = session.random();
    let (progress, engine, checkpoints) = (&Silent, session.recipe().engine, None);
    let resources = Resources { images, cache, random: &random, progress, engine, merge: &[], checkpoints };
    let result = session.quantize(session.float_model().unwrap(), &resources).unwrap();
    let measured = session.evaluate(&result.model, Precision::Quantized, &Silent).unwrap();
    (measured.images, result.units.len())
}

fn cells_of(architecture: &str) {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let a = ARCHITECTURES.iter().position(|a| *a == architecture).unwrap();
    let (mut file, mut units) = (None, None);
    for (b, bits) in BITS.into_iter().enumerate() {
        let name = format!("imagenet/{architecture}_{bits}");
        let shown = qdrop(&["recipes", "show", &name, "--json"]).json();
        let want = (&bits[1..2], &bits[3..4]);
        assert_eq!(shown["quant"]["weight"]["bits"].to_string(), want.0, "{name}");
        assert_eq!(shown["quant"]["activation"]["bits"].to_string(), want.1, "{name}");
        assert_eq!(shown["quant"]["setting"], "qdrop", "{name}");
        assert_eq!(shown["published"]["quantized"], PUBLISHED[a][b], "{name}");
        let params = &shown["reconstruction"]["params"];
        assert_eq!((&params["weight"], &params["iters"]), (&LAMBDA[a].into(), &20000.into()), "{name}");
        let weights = file.get_or_insert_with(|| weights(dir.path(), &shown));

        let given = ["--data", text(&data), "--weights", text(weights)];
        let small = [
            "--set",
            "calibration={images: 8, observe: 8}",
            "--set",
            "reconstruction.params.batch_size=4",
            "--set",
            "data.params.resize=36",
            "--set",
            "model.architecture.params.image_size=32",
            "--set",
            "evaluation.batch_size=4",
            // With random weights the published accuracy cannot be reached.
            "--set",
            "published=null",
            "--iters",
            "2",
        ];
        // The plan is the same for all bits.
        let units = *units.get_or_insert_with(|| {
            let checked = qdrop(&[&["check", &name, "--json"], &given[..], &small].concat()).json();
            assert_eq!(checked["unchecked"].as_array().unwrap().len(), 0, "{name}");
            let arguments = [&["quantize", &name, "--json", "--dry-run"], &given[..], &small].concat();
            let planned = qdrop(&arguments).json();
            assert_eq!(planned["plan"]["iterations"], 2, "{name}");
            assert!(planned["plan"]["seconds"].as_f64().unwrap() > 0.0, "{name}");
            planned["plan"]["units"].as_u64().unwrap()
        });
        if b > 0 {
            let loader =
                small.iter().filter(|s| s.contains('=')).fold(Loader::new(&name), |loader, set| loader.set(*set));
            let recipe = loader.set("quant.weight.observer=minmax").iters(2).data(&data).weights(&*weights).load();
            assert_eq!(quantized(recipe.unwrap()), (4, units as usize), "{name}");
            continue;
        }
        let out = dir.path().join(format!("{architecture}_{bits}"));
        let arguments = [&["quantize", &name, "--json", "--out", text(&out)], &given[..], &small].concat();
        let run = qdrop(&arguments).json();
        assert_eq!(run["quantized"]["images"], 4, "{name}");
        assert_eq!(run["units"].as_array().unwrap().len() as u64, units, "{name}");
        let evaluated = qdrop(&["evaluate", text(&out), "--json"]).json();
        assert_eq!(evaluated["top1"], run["quantized"]["top1"], "{name}");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn recipes_with_everything_that_helps() {
    for architecture in ARCHITECTURES {
        for bits in BITS.into_iter().chain(["w3a4", "w4a8", "w8a8"]) {
            let recipe = Loader::new(format!("best/{architecture}_{bits}")).load().unwrap();
            let (quant, number) = (&recipe.quant, |at: usize| bits[at..=at].parse::<u32>().unwrap());
            assert_eq!((quant.weight.bits, quant.activation.bits), (number(1), number(3)), "{architecture}_{bits}");
            let (reconstruction, quantizer) = if bits == "w8a8" { ("none", "fixed") } else { ("fast", "adaround") };
            assert_eq!(recipe.reconstruction.name, reconstruction, "{architecture}_{bits}");
            let params = &recipe.reconstruction.params;
            let own: serde_yaml::Value =
                serde_yaml::from_str(if bits == "w2a4" { "drop_prob: 0.75" } else { "null" }).unwrap();
            assert_eq!(*params, own, "{architecture}_{bits}: what differs from the preset");
            assert_eq!(quant.weight.quantizer.name, quantizer, "{architecture}_{bits}");
            let prepared: Vec<&str> = recipe.prepare.iter().map(|strategy| strategy.name.as_str()).collect();
            let wanted: &[&str] = if bits == "w8a8" { &["equalize", "bias_correction"] } else { &["equalize"] };
            assert_eq!((&prepared[..], recipe.calibration.refine), (wanted, 32), "{architecture}_{bits}");
            assert!(recipe.published.is_none() && recipe.evaluation.against_float, "{architecture}_{bits}");
            Session::new(recipe, registries(), Device::Cpu).unwrap();
        }
    }
    let (dir, name) = (tempfile::tempdir().unwrap(), "best/mobilenet_v2_w2a4");
    let data = images(dir.path());
    let weights = weights(dir.path(), &qdrop(&["recipes", "show", name, "--json"]).json());
    let sizes = [
        "calibration={images: 8, observe: 8, refine: 4}",
        "reconstruction.params.batch_size=4",
        "data.params.resize=36",
        "model.architecture.params.image_size=32",
    ];
    let mut arguments = vec!["quantize", name, "--iters", "2", "--data", text(&data), "--weights", text(&weights)];
    sizes.iter().for_each(|size| arguments.extend(["--set", size]));
    let run = qdrop(&[&arguments[..], &["--json"]].concat());
    assert!(!run.stderr.contains("not comparable"), "{}", run.stderr);
    let run = run.json();
    assert!(run["quantized"]["kl"].as_f64().unwrap() > 0.0, "{run}");
    assert_eq!(run["prepared"][0][0], "equalize", "{run}");
}

/// A configuration file of the reference implementation.
const CONFIG: &str = "
quant:
    a_qconfig: {quantizer: LSQFakeQuantize, observer: AvgMSEObserver, bit: 4, symmetric: False, ch_axis: -1}
    w_qconfig: {quantizer: AdaRoundFakeQuantize, observer: MSEObserver, bit: 2, symmetric: False, ch_axis: 0}
    calibrate: 512
    recon:
        batch_size: 16
        scale_lr: 4.0e-5
        warm_up: 0.2
        weight: 0.2
        iters: 20000
        b_range: [20, 2]
        keep_gpu: True
        round_mode: learned_hard_sigmoid
        drop_prob: 0.5
model: {type: mnasnet, path: /models/mnasnet.pth.tar}
data: {path: /data/imagenet, batch_size: 32, num_workers: 4, pin_memory: True, input_size: 224, test_resize: 256}
process: {seed: 7}
";

#[test]
#[expect(clippy::disallowed_macros, reason = "nothing here fails to serialize")]
fn configurations_of_the_reference_become_recipes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    let recipe = qdrop(&["recipes", "convert", text(&file), "--json"]).json();
    let want = serde_json::json!({
        "name": "mnasnet_w2a4",
        "model": {"architecture": {"name": "mnasnet", "params": {"scale": 2.0}}, "weights": "/models/mnasnet.pth.tar"},
        "data": {
            "name": "image_folder",
            "params": {"root": "/data/imagenet", "class_list": "imagenet-1k", "resize": 256}
        },
        "quant": {
            "setting": "qdrop",
            "weight": {
                "bits": 2, "symmetric": false, "granularity": "per_channel", "observer": "MSEObserver",
                "quantizer": "AdaRoundFakeQuantize"
            },
            "activation": {
                "bits": 4, "symmetric": false, "granularity": "per_tensor", "observer": "AvgMSEObserver",
                "quantizer": "LSQFakeQuantize"
            }
        },
        "calibration": {"images": 512, "observe": 256},
        "cache": {"limit": "4GiB", "dtype": "f32"},
        "reconstruction": {
            "name": "qdrop",
            "params": {
                "iters": 20000, "batch_size": 16, "lr": 1e-3, "scale_lr": 4e-5, "weight": 0.2, "warm_up": 0.2,
                "b_range": [20.0, 2.0], "drop_prob": 0.5
            }
        },
        "evaluation": {"batch_size": 32},
        "seed": 7
    });
    assert_eq!(recipe, want);
    // The printed text is a recipe, and the configuration file itself can be run too.
    let printed = qdrop(&["recipes", "convert", text(&file)]);
    let ours = dir.path().join("recipe.yaml");
    std::fs::write(&ours, &printed.stdout).unwrap();
    let without = ["--set", "model.weights=null", "--set", "data.params.root=null"];
    for file in [&ours, &file] {
        let checked = qdrop(&[&["check", text(file), "--json"], &without[..]].concat()).json();
        assert_eq!(checked["valid"], true);
    }
}

#[test]
#[expect(clippy::disallowed_macros, reason = "nothing here fails to serialize")]
fn configurations_inherit_whole_sections_from_their_root() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.yaml"), CONFIG).unwrap();
    std::fs::create_dir(dir.path().join("r18")).unwrap();
    let file = dir.path().join("r18/config.yaml");
    std::fs::write(&file, "root: ../base.yaml\nmodel: {type: resnet18, path: /models/r18.pth.tar}\n").unwrap();
    let recipe = qdrop(&["recipes", "convert", text(&file), "--json"]).json();
    assert_eq!(recipe["model"], serde_json::json!({"architecture": "resnet18", "weights": "/models/r18.pth.tar"}));
    assert_eq!(recipe["seed"], 7);
    let error = |content: &str| {
        std::fs::write(&file, content).unwrap();
        let run = qdrop(&["recipes", "convert", text(&file)]);
        run.error().to_string()
    };
    let changed = |from: &str, to: &str| error(&CONFIG.replace(from, to));
    assert!(error("root: config.yaml\n").contains("does it name itself?"));
    assert!(error("root: none.yaml\n").contains("none.yaml, the root of"));
    assert!(
        changed("type: mnasnet", "type: vgg").contains("model.type: 'vgg' is none of the reference's models: resnet18")
    );
    assert!(changed("ch_axis: -1", "ch_axis: 1").contains("quant.a_qconfig.ch_axis: 1 is not supported"));
    assert!(changed("learned_hard_sigmoid", "learned_round_sigmoid").contains("quant.recon.round_mode"));
    assert!(changed("calibrate: 512", "calibrate: 512\n    extra: 1").contains("quant.extra: unknown field `extra`"));
    let detection = "a_qconfig: {bit: 4}\nw_qconfig: {bit: 2}\ncalibrate: 256\n";
    assert!(error(detection).contains("only the configurations for classification can be read"));
}
