use super::*;
use crate::progress::{Event, Progress, Silent};
use crate::reconstructor::Interrupted;
use crate::report::{LossPoint, UnitReport};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

fn manifest(dir: &Path) -> Manifest {
    let weights = dir.join("w");
    std::fs::write(&weights, b"weights").unwrap();
    Manifest::new("name: x\n".into(), &[weights], "cpu").unwrap()
}

#[test]
fn a_directory_belongs_to_one_run_and_one_process() {
    let temp = tempfile::tempdir().unwrap();
    let (manifest, out) = (manifest(temp.path()), temp.path().join("out"));
    let directory = RunDirectory::create(&out, &manifest).unwrap();
    let error = RunDirectory::open(&out).unwrap_err().to_string();
    let expected = format!("process {} is working on this run", std::process::id());
    assert!(error.contains(&expected), "{error}");
    let error = RunDirectory::create(&out, &manifest).unwrap_err().to_string();
    assert!(error.contains("holds an unfinished run; continue it with `qdrop resume"), "{error}");
    drop(directory);
    assert_eq!(RunDirectory::open(&out).unwrap().1, manifest);
    std::fs::write(out.join(SUMMARY_FILE), "{}").unwrap();
    let error = RunDirectory::create(&out, &manifest).unwrap_err().to_string();
    assert!(error.contains("holds the result of an earlier run"), "{error}");
}

#[test]
fn nothing_of_the_user_is_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    let manifest = manifest(temp.path());
    let error = RunDirectory::create(temp.path(), &manifest).unwrap_err().to_string();
    assert!(error.contains("is not empty (it holds 'w')"), "{error}");
    let error = RunDirectory::create(Path::new("/dev/null/out"), &manifest).unwrap_err().to_string();
    assert!(error.contains("cannot create /dev/null/out"), "{error}");
    // Files that are left over by a process that stopped before its run began do not matter.
    let out = temp.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("run.json.partial"), "{").unwrap();
    std::fs::write(out.join("lock"), "").unwrap();
    RunDirectory::create(&out, &manifest).unwrap();
}

#[test]
fn a_run_goes_on_only_where_everything_is_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let (mut manifest, out) = (manifest(temp.path()), temp.path().join("out"));
    let weights = temp.path().join("w");
    let directory = RunDirectory::create(&out, &manifest).unwrap();
    manifest.check(&out, std::slice::from_ref(&weights)).unwrap();
    directory.check_calibration(&mut manifest, "a").unwrap();
    directory.check_calibration(&mut manifest, "a").unwrap();
    let error = directory.check_calibration(&mut manifest, "b").unwrap_err().to_string();
    assert!(error.contains("the calibration images differ"), "{error}");
    let old = Manifest { version: "0.0.1".into(), ..manifest.clone() };
    let error = old.check(&out, std::slice::from_ref(&weights)).unwrap_err().to_string();
    assert!(error.contains("the run began with qdrop 0.0.1, this is"), "{error}");
    std::fs::write(&weights, b"others").unwrap();
    let error = manifest.check(&out, std::slice::from_ref(&weights)).unwrap_err().to_string();
    assert!(error.contains("is not the checkpoint that the run began with"), "{error}");
    drop(directory);
    assert_eq!(RunDirectory::open(&out).unwrap().1.calibration.as_deref(), Some("a"));
    std::fs::remove_file(out.join(RECIPE_FILE)).unwrap();
    RunDirectory::open(&out).unwrap();
    assert_eq!(std::fs::read_to_string(out.join(RECIPE_FILE)).unwrap(), "name: x\n");
    std::fs::write(out.join(RECIPE_FILE), "name: y\n").unwrap();
    let error = RunDirectory::open(&out).unwrap_err().to_string();
    assert!(error.contains("recipe.yaml: was changed since the run began"), "{error}");
    let error = RunDirectory::open(temp.path()).unwrap_err().to_string();
    assert!(error.contains("holds no run: run.json is missing"), "{error}");
    assert!(RunDirectory::open(&out.join("none")).unwrap_err().to_string().contains("no such directory"));
}

#[test]
fn checkpoints_come_back_exactly_and_damage_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let folder = CheckpointFolder::new(temp.path().join("checkpoints"));
    let device = Device::Cpu;
    let tensor = Tensor::new(&[[1.5_f32, -0.0, f32::MIN_POSITIVE]], &device).unwrap();
    let tensors = BTreeMap::from([("a.weight".to_string(), tensor)]);
    let bits =
        |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(folder.calibration(&device).unwrap().is_none());
    folder.keep_calibration(&tensors, 2.5).unwrap();
    let (read, seconds) = folder.calibration(&device).unwrap().unwrap();
    assert_eq!(
        (read["a.weight"].dims(), bits(&read["a.weight"]), seconds),
        (&[1, 3][..], bits(&tensors["a.weight"]), 2.5)
    );
    let loss = LossPoint { reconstruction: 0.1, rounding: 1.0 / 3.0, b: 20.0 };
    let state = Interrupted { losses: vec![loss], tensors: tensors.clone() };
    assert_eq!(folder.interrupted_seconds("u").unwrap(), 0.0);
    folder.keep_interrupted("u", &state, 2.5).unwrap();
    assert_eq!((folder.interrupted_seconds("u").unwrap(), folder.interrupted_seconds("v").unwrap()), (2.5, 0.0));
    assert!(folder.interrupted("v", &device).unwrap().is_none());
    assert_eq!(folder.interrupted("u", &device).unwrap().unwrap().losses, [loss]);
    assert_eq!(folder.interrupted_losses().unwrap(), Some(("u".into(), vec![loss])));
    assert!(folder.reports().unwrap().is_empty());
    let report = UnitReport { name: "u".into(), losses: vec![loss], seconds: 1.0, ..Default::default() };
    folder.keep_unit(0, &tensors, &report).unwrap();
    assert!(folder.interrupted("u", &device).unwrap().is_none());
    assert_eq!(folder.unit(0, "u", &device).unwrap().unwrap().1, report);
    let reports = || folder.reports().unwrap().into_iter().collect::<Result<Vec<_>>>();
    assert_eq!(reports().unwrap(), std::slice::from_ref(&report));
    assert!(folder.unit(0, "v", &device).unwrap_err().to_string().contains("belongs to unit 'u', not to 'v'"));
    let file = temp.path().join("checkpoints/unit-001.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = folder.unit(0, "u", &device).unwrap_err().to_string();
    assert!(error.contains("unit-001.safetensors: is damaged"), "{error}");
    std::fs::remove_dir_all(temp.path().join("checkpoints")).unwrap();
    let error = folder.keep_unit(1, &tensors, &report).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("unit-002.safetensors"), "{error}");
}

#[test]
fn a_log_that_cannot_be_written_stops_the_run() {
    let temp = tempfile::tempdir().unwrap();
    let (manifest, out) = (manifest(temp.path()), temp.path().join("out"));
    let directory = RunDirectory::create(&out, &manifest).unwrap();
    let log = EventLog::open(&directory, &Silent).unwrap();
    log.event(Event::Started { stage: "unit", total: 1000 });
    let loss = LossPoint { reconstruction: 0.1, rounding: 0.0, b: 20.0 };
    (1..=1000).for_each(|step| log.event(Event::Step { step, loss }));
    log.check().unwrap();
    let text = std::fs::read_to_string(out.join(EVENTS_FILE)).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 102);
    assert_eq!((&lines[1]["event"], &lines[101]["step"]), (&"started".into(), &1000.into()));
    if Path::new("/dev/full").exists() {
        std::fs::remove_file(out.join(EVENTS_FILE)).unwrap();
        std::os::unix::fs::symlink("/dev/full", out.join(EVENTS_FILE)).unwrap();
        let log = EventLog::open(&directory, &Silent).unwrap();
        assert!(log.cancelled());
        let error = log.check().unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("No space left"), "{error}");
    }
}
