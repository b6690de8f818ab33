//! Measures the average precision of 500,000 detections in 5,000 pictures, alone or in comparison with another program.
//!
//! ```sh
//! cargo run --release -p qdrop --example bench_average_precision -- --against "python3 cli/examples/coco_eval.py"
//! ```
//!
//! `--against` names a command that prints `{"seconds": ..., "stats": [...]}` for `ANNOTATIONS DETECTIONS`, two files of COCO's
//! formats; both run in turn, and the ratio is printed.

#![expect(clippy::print_stdout, reason = "prints its measurements")]

use anyhow::{bail, ensure, Context, Result};
use qdrop_core::kernels::random::Stream;
use qdrop_plugins::tasks::detection::ap::{average_precision, Found, Picture, Truth, GROUPS};
use std::path::Path;
use std::time::Instant;

const PICTURES: u64 = 5_000;
const FOUND: usize = 100;
const LABELS: usize = 80;
const ROUNDS: usize = 3;

/// Random numbers, one after the other.
struct Draw(Stream, usize);

impl Draw {
    fn unit(&mut self) -> f64 {
        self.1 += 1;
        self.0.uniform(self.1)
    }

    /// A label; one of them has a quarter of all objects, as persons have in COCO.
    fn label(&mut self) -> usize {
        if self.unit() < 0.25 {
            0
        } else {
            (self.unit() * LABELS as f64) as usize % LABELS
        }
    }

    /// In hundredths of a pixel, so that both programs read the same numbers.
    fn bbox(&mut self) -> [f64; 4] {
        let round = |v: f64| (v * 100.0).round() / 100.0;
        let mut side = || [20.0, 50.0, 120.0, 250.0][(self.unit() * 4.0) as usize % 4] * (0.7 + 0.7 * self.unit());
        let [w, h] = [side(), side()];
        [500.0 * self.unit(), 400.0 * self.unit(), w, h].map(round)
    }
}

/// Pictures with about seven true boxes each; a third of the detections lie near one.
fn pictures() -> Vec<Picture> {
    let mut draw = Draw(Stream { seed: 5, id: [0; 3] }, 0);
    let picture = |id: u64| {
        let count = 1 + (draw.unit() * 13.0) as usize;
        let truth: Vec<Truth> = (0..count)
            .map(|_| {
                let (label, bbox) = (draw.label(), draw.bbox());
                let area = (bbox[2] * bbox[3] * 70.0).round() / 100.0;
                Truth { label, bbox, area, crowd: draw.unit() < 0.01 }
            })
            .collect();
        let found = (0..FOUND).map(|_| {
            let score = (draw.unit() * 1e6).round() / 1e6;
            if draw.unit() > 0.35 {
                return Found { label: draw.label(), bbox: draw.bbox(), score };
            }
            let near = &truth[(draw.unit() * count as f64) as usize % count];
            let [x, y, w, h] = near.bbox;
            let mut moved = |v: f64, size: f64| ((v + size * 0.2 * (draw.unit() - 0.5)) * 100.0).round() / 100.0;
            let bbox = [moved(x, w), moved(y, h), moved(w, w), moved(h, h)];
            Found { label: near.label, bbox, score }
        });
        Picture { id, found: found.collect(), truth }
    };
    (1..=PICTURES).map(picture).collect()
}

/// Writes the files of the other program.
fn write(pictures: &[Picture], annotations: &Path, detections: &Path) -> Result<()> {
    let (mut number, mut truth, mut found, mut images) = (0, Vec::new(), Vec::new(), Vec::new());
    for p in pictures {
        images.push(format!(r#"{{"id":{},"file_name":"{}.jpg","width":800,"height":700}}"#, p.id, p.id));
        for t in &p.truth {
            number += 1;
            truth.push(format!(
                r#"{{"id":{number},"image_id":{},"category_id":{},"bbox":{:?},"area":{:?},"iscrowd":{}}}"#,
                p.id,
                t.label + 1,
                t.bbox,
                t.area,
                u8::from(t.crowd)
            ));
        }
        for f in &p.found {
            let (category, bbox, score) = (f.label + 1, f.bbox, f.score);
            found
                .push(format!(r#"{{"image_id":{},"category_id":{category},"bbox":{bbox:?},"score":{score:?}}}"#, p.id));
        }
    }
    let categories: Vec<_> = (1..=LABELS).map(|id| format!(r#"{{"id":{id},"name":"{id}"}}"#)).collect();
    let lists = [images, truth, categories].map(|list| list.join(","));
    let [images, truth, categories] = lists;
    let text = format!(r#"{{"images":[{images}],"annotations":[{truth}],"categories":[{categories}]}}"#);
    std::fs::write(annotations, text)?;
    Ok(std::fs::write(detections, format!("[{}]", found.join(",")))?)
}

/// Seconds and values of the other program.
fn other(command: &str, files: [&Path; 2]) -> Result<(f64, Vec<f64>)> {
    let line = format!("{command} {} {}", files[0].display(), files[1].display());
    let output = std::process::Command::new("sh").args(["-c", &line]).output().context("running the other command")?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading the other command's JSON")?;
    let seconds = value["seconds"].as_f64().context("the other command printed no seconds")?;
    let stats = value["stats"].as_array().context("the other command printed no stats")?;
    Ok((seconds, stats.iter().filter_map(serde_json::Value::as_f64).collect()))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let against = match arguments.next().as_deref() {
        None => None,
        Some("--against") => Some(arguments.next().context("--against takes a command")?),
        Some(option) => bail!("unknown option {option}"),
    };
    let pictures = pictures();
    let folder = tempfile::tempdir()?;
    let files = ["annotations.json", "detections.json"].map(|name| folder.path().join(name));
    write(&pictures, &files[0], &files[1])?;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let estimate = average_precision(&pictures, GROUPS)?;
        let seconds = start.elapsed().as_secs_f64();
        let values: [Option<f64>; 6] = estimate.value.into();
        print!("AP {:.4}, {seconds:.2} s", values[0].unwrap_or(-1.0));
        if let Some(command) = &against {
            let (theirs, stats) = other(command, [&files[0], &files[1]])?;
            let apart = values.iter().zip(&stats).map(|(own, other)| (own.unwrap_or(-1.0) - other).abs());
            let apart = apart.fold(0.0, f64::max);
            ensure!(stats.len() == 6 && apart < 1e-9, "the values differ by {apart}: {stats:?}");
            print!("   other {theirs:.2} s   ratio {:.0}   difference {apart:.1e}", theirs / seconds);
        }
        println!();
    }
    Ok(())
}
