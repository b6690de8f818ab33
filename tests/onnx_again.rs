//! Networks that came in as ONNX files, quantized on the command line and exported again.

use crate::onnx_case::*;
use crate::onnx_export::write_saved;
use crate::support::*;
use prost::Message;
use qdrop_onnx::proto::ModelProto;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Float networks may be as far from qdrop as this, relative to the logits' deviation.
const FLOAT: f64 = 1e-4;
/// Exact files may be as far from qdrop as this: sums in means, pools and normalizations have another order.
const EXACT: f64 = 5e-3;
/// Files in integers may be as far as this. Without optimizations runtimes sum fractions there, and a random network has many values
/// near the middle of two points.
const INTEGER: f64 = 0.01;

/// Cases of networks that are quantized and exported again.
pub struct Again {
    folder: tempfile::TempDir,
}

impl Again {
    /// Without cases; images are made.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = pictures([12, 3, 64, 64], 21);
        // Two of ImageNet's classes.
        for (i, image) in (0..12).map(|i| (i, images.get(i).unwrap())) {
            let class = ["n01440764", "n01443537"][i % 2];
            let dir = folder.path().join("data").join(if i < 8 { "train" } else { "val" }).join(class);
            std::fs::create_dir_all(&dir).unwrap();
            let channels = vec(&image.affine(32.0, 128.0).unwrap());
            let pixels = (0..64 * 64).flat_map(|p| [0, 1, 2].map(|c| channels[c * 64 * 64 + p] as u8));
            let file = [b"P6 64 64 255 ".to_vec(), pixels.collect()].concat();
            std::fs::write(dir.join(format!("{i}.ppm")), file).unwrap();
        }
        std::fs::create_dir(folder.path().join("cases")).unwrap();
        Self { folder }
    }

    fn path(&self, parts: &[&str]) -> PathBuf {
        parts.iter().fold(self.folder.path().to_path_buf(), |path, part| path.join(part))
    }

    /// Quantizes the network of a file for two iterations, and writes it in all formats.
    pub fn add(&self, name: &str, network: &Path) {
        let [out, data, case] = [vec!["out", name], vec!["data"], vec!["cases", name]].map(|parts| self.path(&parts));
        let [network, out, data] = [network, &out, &data].map(|path| path.to_str().unwrap());
        let few = ["--bits", "w4a4", "--iters", "2"];
        let sets = ["calibration={images: 8, observe: 8, refine: 2}", "reconstruction.params.batch_size=4"];
        let sets = sets.map(|set| ["--set", set]).concat();
        qdrop(&[&["quantize", network, "--data", data, "--out", out, "--json"], &few[..], &sets].concat()).json();
        std::fs::create_dir_all(&case).unwrap();
        for (file, arguments) in
            [("integer", &["onnx"][..]), ("exact", &["onnx", "--exact"]), ("float", &["onnx-float"])]
        {
            let file = case.join(format!("{file}.onnx"));
            let start = ["export", out, "--out", file.to_str().unwrap(), "--json", "--format"];
            qdrop(&[&start, arguments].concat()).json();
            let ends = |file: &Path| {
                let graph = ModelProto::decode(std::fs::read(file).unwrap().as_slice()).unwrap().graph.unwrap();
                [&graph.input, &graph.output].map(|values| values.iter().map(|v| v.name.clone()).collect::<Vec<_>>())
            };
            assert_eq!(ends(&file), ends(Path::new(network)), "{name}: names of inputs and outputs");
        }
        write_saved(&case, Path::new(out));
    }

    /// Compares all cases with onnxruntime.
    pub fn check(&self) {
        for result in onnxruntime(&self.path(&["cases"])).unwrap_or_default() {
            check_case(&result);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are for the log of the tests")]
fn check_case(result: &Value) {
    for level in ["off", "on"] {
        let of = |file: &str| number(&result["files"][file], &[level, "error"]);
        let [float, exact, integer] = ["float", "exact", "integer"].map(of);
        println!("{} {level}: float {float:.5}, exact {exact:.5}, integer {integer:.5}", result["case"]);
        let what = format!("{}, optimizations {level}", result["case"]);
        for (file, most) in [("float", FLOAT), ("exact", EXACT), ("integer", INTEGER)] {
            assert!(of(file) <= most, "{what}: {file} is {} away", of(file));
        }
    }
}
