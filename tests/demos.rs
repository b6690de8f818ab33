//! The embedded demo of detection, shortened.

use crate::support::*;
use std::path::Path;
use std::process::Command;

/// AP of the float network, in percent.
const FLOAT: f64 = 58.44;
const SHORT: [&str; 8] = [
    "--iters",
    "40",
    "--set",
    "reconstruction.params.accumulate=1",
    "--set",
    "calibration.images=16",
    "--set",
    "calibration.observe=16",
];

/// Runs `qdrop` with a folder of its own for temporary files.
fn within(temporary: &Path, arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_qdrop")).env("TMPDIR", temporary).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { ok: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The folders with files of demos.
fn written(temporary: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("qdrop-demo-")).collect()
}

#[cfg(unix)]
#[test]
fn the_demo_of_detection_runs_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("result");
    let result = out.to_str().unwrap();
    let summary =
        within(dir.path(), &[&["quantize", "demo/detection", "--json", "--out", result], &SHORT[..]].concat());
    let summary = summary.json();
    let rows = summary["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["float", "nearest rounding", "nearest rounding, 2 bits", "qdrop, 2 bits", "qdrop"]);
    let ap = |row: usize| rows[row]["ap"].as_f64().unwrap();
    // Kernels for other processors add in another order, which may exchange detections of nearly equal scores.
    assert!((ap(0) - FLOAT).abs() < 0.1, "float AP {}", ap(0));
    // With all 128 calibration pictures nearest rounding gives 57.61 and 26.72.
    assert!(
        (ap(1) - 57.6).abs() < 1.0 && (ap(2) - 26.7).abs() < 3.0,
        "AP {} and {} with nearest rounding",
        ap(1),
        ap(2)
    );
    assert!(ap(3) > ap(2) + 5.0 && ap(4) > ap(3), "AP {} and {} after 40 steps", ap(3), ap(4));
    assert_eq!((&summary["bits"], &summary["float"]["images"]), (&"w4a4".into(), &500.into()));

    // Only the files of this demo were written. Those that were deleted are written again.
    let folders = written(dir.path());
    assert_eq!(folders.len(), 1, "{folders:?}");
    assert!(folders[0].join("evaluation/0500.jpg").is_file());
    std::fs::remove_dir_all(&folders[0]).unwrap();
    let found = dir.path().join("found.json");
    let again = ["evaluate", result, "--json", "--detections", found.to_str().unwrap()];
    assert_eq!(within(dir.path(), &again).json()["ap"], summary["quantized"]["ap"]);
    assert_eq!(written(dir.path()), folders);
    let found: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&found).unwrap()).unwrap();
    for (key, last) in [("image_id", 500), ("category_id", 10)] {
        let mut numbers: Vec<u64> = found.iter().map(|object| object[key].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn the_demo_of_detection_can_be_inherited_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.yaml");
    std::fs::write(&file, "extends: demo/detection\nname: mine\nquant: {weight: {bits: 2}}\n").unwrap();
    let checked = qdrop(&["check", file.to_str().unwrap(), "--json"]).json();
    assert_eq!((&checked["valid"], &checked["weights"]), (&true.into(), &28.into()));
}
