//! Measures images per second from files to batches, alone or in comparison with another loader.
//!
//! ```sh
//! cargo run --release -p qdrop --example bench_loading -- DIR --against "python3 cli/examples/torch_loading.py"
//! ```
//!
//! `DIR` contains `train/` and `val/`. Training images are cropped and mirrored at random, validation images are
//! resized and center-cropped, and all are normalized. `--against` names a command that prints
//! `{"images_per_second": ...}` for `DIR SPLIT WORKERS`; both run in turn, and the ratio is printed.

#![expect(clippy::print_stdout, reason = "prints its measurements")]

use anyhow::{bail, Context, Result};
use qdrop_core::candle_core::Device;
use qdrop_core::dataset::{DatasetRequest, Split};
use qdrop_core::params::Params;
use qdrop_core::pipeline::{load_ahead, Registries};
use qdrop_core::target::TargetSpec;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

const BATCH: usize = 64;
const THREADS: usize = 2;
const PAIRS: usize = 3;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn own(registries: &Registries, root: &str, split: Split) -> Result<f64> {
    let params = Params::new("data.params", serde_yaml::from_str("{class_list: imagenet-1k, resize: 256}")?);
    let request = DatasetRequest {
        split,
        seed: 1,
        input: [3, 224, 224],
        targets: TargetSpec::Class { classes: 1000 },
        root: Some(root.into()),
        base_dir: PathBuf::new(),
    };
    let start = Instant::now();
    let dataset = registries.datasets.get("image_folder", "bench")?.build(&params, &request)?;
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let mut images = 0;
    load_ahead(&*dataset, indices.chunks(BATCH), &request.input, &Device::Cpu, |batch| {
        images += batch.count();
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(images as f64 / start.elapsed().as_secs_f64())
}

fn other(command: &str, root: &str, split: &str) -> Result<f64> {
    let line = format!("{command} {root} {split} {THREADS}");
    let output = std::process::Command::new("sh").args(["-c", &line]).output().context("running the other command")?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading the other command's JSON")?;
    value["images_per_second"].as_f64().context("the other command printed no images_per_second")
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().context("usage: bench_loading DIR [--against COMMAND]")?;
    let against = match arguments.next().as_deref() {
        None => None,
        Some("--against") => Some(arguments.next().context("--against takes a command")?),
        Some(option) => bail!("unknown option {option}"),
    };
    qdrop::set_threads(THREADS)?;
    let registries = Registries::collect()?;
    for (split, name) in [(Split::Calibration, "train"), (Split::Evaluation, "val")] {
        let (mut mine, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..if against.is_some() { PAIRS } else { 1 } {
            mine.push(own(&registries, &root, split)?);
            if let Some(command) = &against {
                theirs.push(other(command, &root, name)?);
                ratios.push(mine[mine.len() - 1] / theirs[theirs.len() - 1]);
            }
        }
        print!("{name:6} {:8.1} images/s", median(mine));
        if !ratios.is_empty() {
            print!("   other {:8.1} images/s   ratio {:.2}", median(theirs), median(ratios));
        }
        println!();
    }
    Ok(())
}
