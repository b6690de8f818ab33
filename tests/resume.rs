//! Runs that are stopped, resumed and disturbed: nothing is lost, and the result is the same.

use crate::support::*;
use qdrop_core::run_directory::CheckpointFolder;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run of about two seconds with several units.
const SMALL: &[&str] = &[
    "--set",
    "compare=[{name: nearest, set: {reconstruction: none}}]",
    "--set",
    "calibration={images: 64, observe: 32}",
    "--set",
    "evaluation={images: 100}",
    "--iters",
    "10",
];

fn arguments<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["quantize", "demo"], SMALL, &["--out", text(out)], more].concat()
}

/// Starts the binary without waiting for it.
fn start(arguments: &[&str]) -> Child {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_qdrop"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(file: &Path, child: &mut Child) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "{} never appeared", file.display());
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {} appeared", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// The exit status and what the process wrote to stderr.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The model of an uninterrupted run.
fn uninterrupted(dir: &Path) -> Vec<u8> {
    uninterrupted_with(dir, &[])
}

fn uninterrupted_with(dir: &Path, more: &[&str]) -> Vec<u8> {
    let out = dir.join("uninterrupted");
    let run = qdrop(&arguments(&out, more));
    assert!(run.ok, "{}", run.stderr);
    model(&out)
}

fn model(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).unwrap()
}

/// The tensors of the result, without its description, which has the recipe.
fn tensors(out: &Path) -> Vec<(String, Vec<u8>)> {
    let file = model(out);
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let own = tensors.iter().filter(|(name, _)| !["description", "sha256"].contains(name));
    let mut own: Vec<_> = own.map(|(name, view)| (name.to_string(), view.data().to_vec())).collect();
    own.sort();
    assert!(own.len() > 10, "{}", own.len());
    own
}

/// A run that was killed after its third unit.
fn killed(dir: &Path) -> PathBuf {
    let out = dir.join("killed");
    let mut child = start(&arguments(&out, &[]));
    wait_for(&out.join("checkpoints/unit-003.safetensors"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    out
}

fn resume(out: &Path) -> Run {
    qdrop(&["resume", text(out)])
}

#[test]
fn killed_at_three_random_moments_and_resumed_equals_uninterrupted() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let want = uninterrupted(dir.path());
    let whole = begin.elapsed();
    let out = dir.path().join("out");
    // Random moments are printed, so that a failure can be repeated.
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let random = qdrop_core::kernels::random::Stream { seed: seed.into(), id: [0; 3] };
    for i in 0..3 {
        let moment = whole.mul_f64(0.5 * random.uniform(i));
        eprintln!("kill {i} after {moment:?}");
        let begun = out.join("run.json").exists();
        let mut child = if begun { start(&["resume", text(&out)]) } else { start(&arguments(&out, &[])) };
        std::thread::sleep(moment);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.code().is_none() || status.success(), "{:?}", end(child));
    }
    if !out.join("run.json").exists() {
        assert!(qdrop(&arguments(&out, &[])).ok);
    }
    let run = resume(&out);
    assert!(run.ok, "{}", run.stderr);
    assert!(model(&out) == want, "the resumed result differs");
    let summary = |dir: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir_file(&out, dir)).unwrap()).unwrap()
    };
    let (got, want) = (summary("out/summary.json"), summary("uninterrupted/summary.json"));
    assert_eq!((&got["float"], &got["quantized"]), (&want["float"], &want["quantized"]));
    let again = qdrop(&["resume", text(&out), "--json"]).json();
    let finished = std::fs::read(out.join("model.safetensors")).unwrap();
    assert_eq!(again["quantized"], want["quantized"], "a finished run reports its result");

    // What is lost afterwards comes from the checkpoints.
    // Their first bytes alone are a damaged file.
    for (name, rest) in [("model.safetensors", None), ("model.safetensors", Some(1000)), ("summary.json", Some(1))] {
        let file = out.join(name);
        match rest {
            None => std::fs::remove_file(file).unwrap(),
            Some(rest) => std::fs::write(&file, &std::fs::read(&file).unwrap()[..rest]).unwrap(),
        }
        assert!(!qdrop(&["evaluate", text(&out)]).ok);
        let run = qdrop(&["resume", text(&out), "--json"]);
        assert!(run.stderr.contains(name) && run.stderr.contains("saved again"), "{}", run.stderr);
        assert_eq!(run.json()["quantized"], again["quantized"]);
        assert!(std::fs::read(out.join("model.safetensors")).unwrap() == finished, "the result differs");
    }
}

fn dir_file(out: &Path, name: &str) -> PathBuf {
    out.parent().unwrap().join(name)
}

#[test]
fn ctrl_c_keeps_the_state_within_a_unit() {
    ctrl_c_within_a_unit(&[]);
}

#[test]
fn strategies_that_begin_and_end_a_unit_are_resumed() {
    ctrl_c_within_a_unit(&[
        "--set",
        "compare=[]",
        "--set",
        "calibration.inputs=quantized",
        "--set",
        "reconstruction.params.start=gptq",
        "--set",
        "reconstruction.params.batches=permutation",
        "--set",
        "reconstruction.params.keep_best=4",
    ]);
}

fn ctrl_c_within_a_unit(more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let want = uninterrupted_with(dir.path(), more);
    let out = dir.path().join("out");
    let mut child = start(&arguments(&out, more));
    wait_for(&out.join("checkpoints/unit-002.safetensors"), &mut child);
    // Before the steps of the third unit, its cached values are computed.
    let log = out.join("events.jsonl");
    while !std::fs::read_to_string(&log).unwrap().contains("\"stage\":\"layer1.1\",\"step\":2") {
        assert!(child.try_wait().unwrap().is_none());
    }
    signal(&child, "-INT");
    let (status, stderr) = end(child);
    assert_eq!(status, Some(130), "{stderr}");
    assert!(stderr.contains("continue with `qdrop resume"), "{stderr}");
    let state = out.join("checkpoints/interrupted.safetensors");
    if !out.join("checkpoints/unit-003.safetensors").exists() {
        assert!(state.exists(), "stopped within the unit: {stderr}");
    }
    let folder = CheckpointFolder::of_run(&out);
    let device = qdrop_core::prelude::Device::Cpu;
    let interrupted = folder.interrupted("layer1.1", &device).unwrap();
    let earlier = folder.interrupted_seconds("layer1.1").unwrap();
    assert!(if interrupted.is_some() { (0.0..60.0).contains(&earlier) && earlier > 0.0 } else { earlier == 0.0 });
    // As if it had taken longer.
    let longer =
        if let Some(state) = &interrupted { folder.keep_interrupted("layer1.1", state, 1000.0) } else { Ok(()) };
    longer.unwrap();
    let run = resume(&out);
    assert!(run.ok, "{}", run.stderr);
    assert!(!state.exists());
    // The unit's time is that of both processes.
    let reports: Vec<_> = folder.reports().unwrap().into_iter().map(Result::unwrap).collect();
    assert!(reports[2].name == "layer1.1" && reports[2].seconds > 0.0, "{reports:?}");
    assert_eq!(reports[2].seconds > 1000.0, interrupted.is_some(), "{}", reports[2].seconds);
    assert!(model(&out) == want, "the resumed result differs");
}

#[test]
fn memory_and_files_of_cached_values_give_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    uninterrupted(dir.path());
    let want = tensors(&dir.path().join("uninterrupted"));
    let spill = dir.path().join("spill");
    let out = dir.path().join("spilled");
    let set = format!("cache={{limit: 300KiB, spill: {}}}", spill.display());
    let run = qdrop(&arguments(&out, &["--set", &set]));
    assert!(run.ok, "{}", run.stderr);
    assert!(tensors(&out) == want, "values from files give another result");
    assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0, "a cache file was left");
    let out = dir.path().join("half");
    let run = qdrop(&arguments(&out, &["--set", "cache.dtype=f16"]));
    assert!(run.ok, "{}", run.stderr);
    assert!(tensors(&out) != want, "half precision rounds");
    let run = qdrop(&["check", "demo", "--set", "cache.limit=lots"]);
    assert!(run.error().contains("cache.limit"), "{}", run.stderr);
}

#[test]
fn a_changed_run_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("w.safetensors");
    let demo = fixture("../cli/demo");
    std::fs::copy(demo.join("weights.safetensors"), &weights).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for file in std::fs::read_dir(&demo).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), data.join(file.file_name())).unwrap();
    }
    let out = dir.path().join("out");
    let mut child = start(&arguments(&out, &["--weights", text(&weights), "--data", text(&data)]));
    wait_for(&out.join("checkpoints/unit-001.safetensors"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();

    let changed = |file: &Path, from: &str, to: &str, message: &str| {
        let old = std::fs::read_to_string(file).unwrap();
        assert!(old.contains(from), "{old}");
        std::fs::write(file, old.replace(from, to)).unwrap();
        let run = resume(&out);
        assert!(run.error().contains(message), "{}", run.stderr);
        std::fs::write(file, old).unwrap();
    };
    changed(&out.join("recipe.yaml"), "bits: 2", "bits: 3", "recipe.yaml: was changed since the run began");
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    changed(&out.join("run.json"), &version, "\"version\": \"0.0.0\"", "the run began with qdrop 0.0.0");

    let good = std::fs::read(&weights).unwrap();
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &other).unwrap();
    let run = resume(&out);
    assert!(run.error().contains("w.safetensors: is not the checkpoint that the run began with"), "{}", run.stderr);
    std::fs::write(&weights, &good).unwrap();

    // Other calibration images: those of the test set, which have the same size.
    let images = data.join("train-images-idx3-ubyte.gz");
    let labels = data.join("train-labels-idx1-ubyte.gz");
    for (file, from) in [(&images, "t10k-images-idx3-ubyte.gz"), (&labels, "t10k-labels-idx1-ubyte.gz")] {
        std::fs::copy(demo.join(from), file).unwrap();
    }
    let run = resume(&out);
    assert!(run.error().contains("the calibration images differ"), "{}", run.stderr);
    for file in [&images, &labels] {
        std::fs::copy(demo.join(file.file_name().unwrap()), file).unwrap();
    }
    assert!(resume(&out).ok, "everything restored");
}

#[test]
fn one_process_for_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut child = start(&arguments(&out, &[]));
    wait_for(&out.join("checkpoints/unit-001.safetensors"), &mut child);
    // A stopped process (SIGSTOP) holds the lock for longer than the second process waits.
    signal(&child, "-STOP");
    let second = resume(&out);
    let expected = format!("process {} is working on this run", child.id());
    assert!(second.error().contains(&expected), "{}", second.stderr);
    let second = qdrop(&arguments(&out, &[]));
    assert!(second.error().contains("holds an unfinished run; continue it with `qdrop resume"), "{}", second.stderr);
    signal(&child, "-CONT");
    let (status, stderr) = end(child);
    assert_eq!(status, Some(0), "{stderr}");
}

/// Checkpoints of the run so far.
fn checkpoints(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .map(|p| (p.clone(), std::fs::read(&p).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_full_disk_damages_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let want = uninterrupted(dir.path());
    let out = killed(dir.path());
    let before = checkpoints(&out);
    // The event log is on a full disk.
    let (log, kept) = (out.join("events.jsonl"), dir.path().join("log"));
    std::fs::rename(&log, &kept).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let run = resume(&out);
    assert!(
        run.error().contains("cannot write") && run.stderr.contains("events.jsonl: No space left"),
        "{}",
        run.stderr
    );
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&kept, &log).unwrap();
    // A checkpoint cannot be written: `ulimit -f` limits files of this process to 256 KiB.
    let command =
        format!("trap '' XFSZ; ulimit -f 256; exec '{}' resume '{}'", env!("CARGO_BIN_EXE_qdrop"), out.display());
    let limited = Command::new("bash").args(["-c", &command]).output().unwrap();
    let stderr = String::from_utf8(limited.stderr).unwrap();
    assert!(!limited.status.success() && stderr.contains("cannot write"), "{stderr}");
    assert!(stderr.contains("checkpoints/unit-0") && !stderr.contains("panicked"), "{stderr}");
    let after = checkpoints(&out);
    assert!(before.iter().all(|file| after.contains(file)), "an earlier checkpoint was damaged");
    assert!(!std::fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .any(|f| text(&f.unwrap().path()).ends_with(".partial")));
    let run = resume(&out);
    assert!(run.ok, "{}", run.stderr);
    assert!(model(&out) == want, "the resumed result differs");
}

#[test]
fn directories_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let run = qdrop(&arguments(Path::new("/dev/null/out"), &[]));
    assert!(run.error().contains("cannot create /dev/null/out"), "{}", run.stderr);
    // Read-only by permission, or by the file system, because root may write anyway.
    let read_only = dir.path().join("read-only");
    std::fs::create_dir(&read_only).unwrap();
    let mut permissions = std::fs::metadata(&read_only).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&read_only, permissions).unwrap();
    let target = match std::fs::write(read_only.join("probe"), "") {
        Ok(()) => PathBuf::from("/proc/self"),
        Err(_) => read_only.clone(),
    };
    let run = qdrop(&arguments(&target.join("out"), &[]));
    assert!(run.error().contains("cannot create") && run.stderr.contains("/out"), "{}", run.stderr);
    // The folder is removed during the run: this is an error, and the folder is not created again.
    let out = dir.path().join("out");
    let mut child = start(&arguments(&out, &[]));
    wait_for(&out.join("checkpoints/unit-002.safetensors"), &mut child);
    std::fs::rename(&out, dir.path().join("moved")).unwrap();
    let (status, stderr) = end(child);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("No such file or directory"), "{stderr}");
    assert!(!out.exists());
    assert!(resume(&dir.path().join("moved")).ok, "what was written is whole");
    let run = resume(dir.path());
    assert!(run.error().contains("holds no run: run.json is missing"), "{}", run.stderr);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = killed(dir.path());
    let file = out.join("checkpoints/unit-002.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 4]).unwrap();
    let run = resume(&out);
    assert!(run.error().contains("unit-002.safetensors: is damaged"), "{}", run.stderr);
}
