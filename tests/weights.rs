//! Checkpoints written by PyTorch 2.15 (`fixtures/*.pth`), zip and legacy.
//!
//! Tensor `a.weight` is `arange(24).reshape(2, 3, 4) / 7` with its first and last axis exchanged.
//! `a.half`, `a.bfloat` and `a.double` have the same values in other data types; `a.view` is the second half.

use crate::support::*;
use qdrop_core::prelude::*;
use qdrop_core::weights::{load, read, RawDtype};
use std::collections::HashMap;

#[test]
fn both_pytorch_formats_read_the_same() {
    let value = |i: usize| i as f32 / 7.0;
    for file in ["zip.pth", "legacy.pth"] {
        let tensors = read(&fixture("fixtures").join(file)).unwrap();
        assert_eq!(tensors.len(), 6, "{file}");
        let weight = &tensors["state_dict.a.weight"];
        assert_eq!(weight.shape, [4, 3, 2]);
        let values = weight.to_f32().unwrap();
        for (i, got) in values.iter().enumerate() {
            let (x, y, z) = (i / 6, i / 2 % 3, i % 2);
            assert_eq!(*got, value(z * 12 + y * 4 + x), "{file} {i}");
        }
        assert_eq!(tensors["state_dict.a.view"].to_f32().unwrap()[0], value(12));
        for (name, tolerance) in [("double", 0.0), ("half", 1e-3), ("bfloat", 1e-2)] {
            let values = tensors[&format!("state_dict.a.{name}")].to_f32().unwrap();
            assert!(
                values.iter().enumerate().all(|(i, v)| (v - value(i)).abs() <= tolerance * value(i)),
                "{file} {name}"
            );
        }
        assert_eq!(tensors["state_dict.n.num_batches_tracked"].dtype, RawDtype::Integer(8));
    }
    let tensors = read(&fixture("fixtures/parameter.pth")).unwrap();
    assert_eq!(tensors["model.p"].to_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn truncated_checkpoints_are_refused_wherever_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("w.pth");
    for file in ["zip.pth", "legacy.pth"] {
        let bytes = std::fs::read(fixture("fixtures").join(file)).unwrap();
        for end in (1..bytes.len()).step_by(61) {
            std::fs::write(&target, &bytes[..end]).unwrap();
            let error = read(&target).unwrap_err().to_string();
            assert!(error.contains("w.pth"), "{error}");
        }
    }
}

#[test]
fn damaged_checkpoints_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("w.pth");
    for file in ["zip.pth", "legacy.pth"] {
        let bytes = std::fs::read(fixture("fixtures").join(file)).unwrap();
        for at in (0..bytes.len()).step_by(13) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            std::fs::write(&target, &damaged).unwrap();
            // Damaged values may remain unnoticed, but the program must not panic.
            let _ = read(&target).map(|t| t.values().map(|v| v.to_f32()).collect::<Vec<_>>());
        }
    }
}

/// The network of `fixtures/checkpoints`.
fn network() -> Graph {
    let mut b = GraphBuilder::new([1, 2, 2]);
    let x = b.input();
    let x = b.conv2d("conv", x, Conv2d::new(2, 1).bias()).unwrap();
    let x = b.batch_norm("bn", x, 1e-5).unwrap();
    b.finish(x).unwrap()
}

/// What the files of `fixtures/checkpoints` hold, `above` added.
fn values(above: f32) -> Vec<(&'static str, Vec<f32>)> {
    let names = ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"];
    let value = |i: usize| vec![2.0 * i as f32 + 1.0 + above, 2.0 * i as f32 + 2.0 + above];
    names.into_iter().enumerate().map(|(i, name)| (name, value(i))).collect()
}

/// Loads a file of `fixtures/checkpoints`, compares its values, and returns where they were.
#[track_caller]
fn loaded(file: &str, key: Option<&str>, above: f32) -> (String, Vec<String>) {
    let file = fixture("fixtures/checkpoints").join(file);
    let loaded = load(&file, &network(), &[], key, &Device::Cpu).unwrap();
    for (name, want) in values(above) {
        assert_eq!(vec(&loaded.parameters[name]), want, "{name} of {}", file.display());
    }
    assert_eq!(loaded.parameters.len(), 6);
    (loaded.taken, loaded.others)
}

#[test]
fn checkpoints_of_training_scripts_are_read() {
    // Where the tensors are, in each file that PyTorch wrote.
    for (file, taken) in [
        ("attributes.pth", ""),
        ("averaged.pth", "module"),
        ("bf16.pth", ""),
        ("big_endian.pth", ""),
        ("compiled_parallel.pth", "module"),
        ("data_parallel.pth", "module"),
        ("deflated.pth", ""),
        ("f16.pth", ""),
        ("f64.pth", ""),
        ("lightning.pth", "state_dict.model.backbone"),
        ("module.pth", ""),
        ("module_in_dictionary.pth", "network.best"),
        ("module_legacy.pth", ""),
        ("one_storage.pth", ""),
        ("plain.pth", ""),
        ("torchscript.pth", ""),
        ("training_2.pth", "model"),
        ("training_3.pth", "model"),
        ("training_4.pth", "model"),
        ("training_5.pth", "model"),
        ("training_legacy.pth", "model"),
        ("training_legacy_4.pth", "model"),
    ] {
        assert_eq!(loaded(file, None, 0.0), (taken.to_string(), vec![]), "{file}");
    }
}

#[test]
fn of_two_sets_of_weights_the_average_goes_first_and_the_other_is_named() {
    assert_eq!(loaded("ema.pth", None, 0.0), ("state_dict_ema".into(), vec!["state_dict".into()]));
    assert_eq!(loaded("ema.pth", Some("state_dict"), 100.0).0, "state_dict");
    assert_eq!(loaded("ema_half_module.pth", None, 0.0), ("ema".into(), vec!["model".into()]));
    assert_eq!(loaded("ema_half_module.pth", Some("model"), 100.0).0, "model");
    let file = fixture("fixtures/checkpoints/ema.pth");
    let error = load(&file, &network(), &[], Some("emma"), &Device::Cpu).unwrap_err().to_string();
    assert!(
        error.contains("no tensors lie under 'emma'; this network's tensors lie under: state_dict_ema, state_dict"),
        "{error}"
    );
}

#[test]
fn safetensors_in_several_files_and_of_every_precision_are_read() {
    use qdrop_core::candle_core::safetensors::save;
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let mut parts = [HashMap::new(), HashMap::new()];
        for (i, (name, values)) in values(0.0).into_iter().enumerate() {
            let shape = if name == "conv.weight" { vec![2, 1, 1, 1] } else { vec![2] };
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            parts[i % 2].insert(name, tensor);
        }
        let mut map = serde_json::Map::new();
        for (i, part) in parts.iter().enumerate() {
            let file = format!("model-{}-of-2.safetensors", i + 1);
            save(part, dir.path().join(&file)).unwrap();
            map.extend(part.keys().map(|name| (name.to_string(), file.clone().into())));
        }
        let index = dir.path().join("model.safetensors.index.json");
        let write = |map: serde_json::Map<String, serde_json::Value>| {
            let value = serde_json::Value::Object([("weight_map".to_string(), map.into())].into_iter().collect());
            std::fs::write(&index, value.to_string()).unwrap();
        };
        write(map.clone());
        let read = || load(&index, &network(), &[], None, &Device::Cpu);
        let parameters = read().unwrap().parameters;
        values(0.0).into_iter().for_each(|(name, want)| assert_eq!(vec(&parameters[name]), want, "{name} {dtype:?}"));
        // An editor may write a byte order mark.
        let text = std::fs::read_to_string(&index).unwrap();
        std::fs::write(&index, format!("\u{feff}{text}")).unwrap();
        assert_eq!(vec(&read().unwrap().parameters["conv.weight"]), values(0.0)[0].1);
        std::fs::write(&index, &text[..text.len() / 2]).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("is no index of safetensors files: EOF while parsing"), "{error}");
        let part = dir.path().join("model-1-of-2.safetensors");
        let error = load(&part, &network(), &[], None, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("tensors missing") && error.contains("named model.safetensors.index.json"), "{error}");

        map.insert("bn.bias".into(), "model-3-of-2.safetensors".into());
        write(map.clone());
        let error = read().unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("model-3-of-2.safetensors"), "{error}");
        map.insert("bn.bias".into(), "../model-1-of-2.safetensors".into());
        write(map);
        let error = read().unwrap_err().to_string();
        assert!(error.contains("../model-1-of-2.safetensors"), "{error}");
    }
}

#[test]
fn a_variance_that_cannot_be_one_is_named() {
    let file = fixture("fixtures/checkpoints/plain.pth");
    let mut tensors: HashMap<String, Tensor> = load(&file, &network(), &[], None, &Device::Cpu).unwrap().parameters;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    for (value, want) in [
        (-0.5, "bn.running_var is a variance, but holds -0.5 at element 1"),
        (f32::NAN, "bn.running_var holds NaN at element 1"),
        (f32::INFINITY, "bn.running_var holds inf at element 1"),
    ] {
        let variance = Tensor::from_vec(vec![1.0, value], 2, &Device::Cpu).unwrap();
        tensors.insert("bn.running_var".into(), variance);
        qdrop_core::candle_core::safetensors::save(&tensors, &file).unwrap();
        let error = load(&file, &network(), &[], None, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
