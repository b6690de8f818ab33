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
    let loaded = load(&file, &network().parameter_shapes(), &[], key, &Device::Cpu).unwrap();
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
    let error = load(&file, &network().parameter_shapes(), &[], Some("emma"), &Device::Cpu).unwrap_err().to_string();
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
        let read = || load(&index, &network().parameter_shapes(), &[], None, &Device::Cpu);
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
        let error = load(&part, &network().parameter_shapes(), &[], None, &Device::Cpu).unwrap_err().to_string();
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
    let mut tensors: HashMap<String, Tensor> =
        load(&file, &network().parameter_shapes(), &[], None, &Device::Cpu).unwrap().parameters;
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
        let error = load(&file, &network().parameter_shapes(), &[], None, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

/// A network whose tensors have no name of `fixtures/checkpoints`.
fn other_network() -> Graph {
    let mut b = GraphBuilder::new([1, 2, 2]);
    let x = b.input();
    let x = b.conv2d("stem", x, Conv2d::new(3, 1).bias()).unwrap();
    b.finish(x).unwrap()
}

#[track_caller]
fn refused(file: &std::path::Path, graph: &Graph, wants: &[&str]) {
    let error = load(file, &graph.parameter_shapes(), &[], None, &Device::Cpu).unwrap_err().to_string();
    wants.iter().for_each(|want| assert!(error.contains(want), "'{want}' is not in: {error}"));
}

#[test]
fn programs_of_torch_export_are_named_with_what_to_do() {
    let wants = [
        "is a program that `torch.export.save` wrote (.pt2), not a checkpoint",
        "`torch.save(torch.export.load(\"",
        ".pt2\").state_dict, \"weights.pth\")`",
        ".pt2\"), f=\"net.onnx\")`, for `qdrop quantize net.onnx --data DIR`",
    ];
    refused(&fixture("fixtures/checkpoints/program.pt2"), &network(), &wants);
    // PyTorch 2.1 to 2.6 wrote these names.
    let dir = tempfile::tempdir().unwrap();
    let older = dir.path().join("older.pt2");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&older).unwrap());
    for name in ["serialized_exported_program.json", "serialized_state_dict.pt", "serialized_constants.pt", "version"] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    }
    archive.finish().unwrap();
    refused(&older, &network(), &wants);
}

#[test]
fn onnx_files_are_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["newer.onnx", "older.onnx"] {
        let file = fixture("fixtures/checkpoints").join(name);
        let want = format!(
            "is an ONNX file, which holds the network with its weights: give it as the network, `qdrop quantize {}",
            file.display()
        );
        refused(&file, &network(), &[&want, "`model: {onnx: "]);
        // Wherever a download ended within the graph, and under any name.
        let bytes = std::fs::read(&file).unwrap();
        let part = dir.path().join("weights.pth");
        for end in [bytes.len() - 1, bytes.len() / 2] {
            std::fs::write(&part, &bytes[..end]).unwrap();
            refused(&part, &network(), &["is an ONNX file"]);
        }
        std::fs::write(&part, &bytes[..8]).unwrap();
        refused(&part, &network(), &["neither safetensors nor a PyTorch checkpoint"]);
    }
    // Bytes that begin like one.
    for bytes in [
        &b"\x08\x08"[..],
        b"\x08\x08\x12\x02abc",
        b"\x3a\x03\x0a\x01x",
        b"\x08\xff\x01\x3a\x03\x0a\x01x",
        b"{\"a\": 1}",
    ] {
        let file = dir.path().join("net.onnx");
        std::fs::write(&file, bytes).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(!error.contains("is an ONNX file"), "{error}");
    }
}

#[test]
fn where_nothing_fits_modules_and_scripts_are_named_with_what_to_do() {
    let script = [
        "the file is TorchScript",
        "torch.save(model.state_dict(), \"weights.pth\")",
        "images, \"net.onnx\", dynamo=False)",
    ];
    refused(&fixture("fixtures/checkpoints/frozen.pth"), &network(), &script);
    refused(&fixture("fixtures/checkpoints/torchscript.pth"), &other_network(), &script);
    let module = [
        "holds a whole module (`torch.save(model)`)",
        "torch.save(model.state_dict(), \"weights.pth\")",
        "torch.onnx.export(model, images, \"net.onnx\")",
    ];
    for name in ["module.pth", "module_legacy.pth", "module_in_dictionary.pth", "data_parallel.pth"] {
        refused(&fixture("fixtures/checkpoints").join(name), &other_network(), &module);
    }
    for name in ["plain.pth", "training_2.pth", "lightning.pth"] {
        let file = fixture("fixtures/checkpoints").join(name);
        let error = load(&file, &other_network().parameter_shapes(), &[], None, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("tensors missing") && !error.contains("torch"), "{error}");
    }
}

#[test]
fn files_that_torch_writes_here_are_known_and_the_advice_works() {
    const SCRIPT: &str = r#"
import sys
import torch
from torch import nn

folder = sys.argv[1] + "/"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)
    def forward(self, x):
        return self.bn(self.conv(x))
net = Net().eval()
torch.export.save(torch.export.export(net, (torch.ones(1, 1, 2, 2),)), folder + "net.pt2")
torch.save(torch.export.load(folder + "net.pt2").state_dict, folder + "advised.pth")
torch.jit.script(net).save(folder + "script.pt")
torch.jit.freeze(torch.jit.script(net)).save(folder + "frozen.pt")
torch.save(net, folder + "module.pt")
"#;
    let Some(mut python) = python(&["torch"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("write.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let output = python.arg("-Wignore").arg(&script).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let at = |name: &str| dir.path().join(name);
    let loaded = |name: &str| {
        let parameters = load(&at(name), &network().parameter_shapes(), &[], None, &Device::Cpu).unwrap().parameters;
        let mut values: Vec<_> = parameters.into_iter().map(|(name, value)| (name, vec(&value))).collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        values
    };
    assert_eq!(loaded("advised.pth"), loaded("module.pt"));
    assert_eq!(loaded("script.pt"), loaded("module.pt"));
    refused(&at("net.pt2"), &network(), &["is a program that `torch.export.save` wrote"]);
    refused(&at("frozen.pt"), &network(), &["the file is TorchScript"]);
    refused(&at("script.pt"), &other_network(), &["the file is TorchScript"]);
    refused(&at("module.pt"), &other_network(), &["holds a whole module"]);
}
