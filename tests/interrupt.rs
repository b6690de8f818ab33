//! Ctrl-C, `kill`, `timeout`, `nohup`: every command ends at once with status 130, whatever it is doing, and leaves nothing behind.

use crate::support::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// No test waits longer, also on a busy machine. Work that is interrupted takes much longer.
const LIMIT: Duration = Duration::from_secs(60);

fn start(arguments: &[&str], stdout: impl Into<Stdio>) -> Child {
    let mut command = with_default_signals(env!("CARGO_BIN_EXE_qdrop"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
}

fn poll(what: &str, done: impl FnMut() -> bool) {
    let (start, mut done) = (Instant::now(), done);
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}: waited for {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends signals, such as `-INT`, to the process.
fn signal(child: &Child, signals: &[&str]) {
    let process = child.id().to_string();
    let kill: Vec<String> = signals.iter().map(|s| format!("kill {s} {process}")).collect();
    assert!(Command::new("sh").args(["-c", &kill.join(" && ")]).status().unwrap().success());
}

/// Waits until the process handles signals.
fn wait_until_watching(child: &Child) {
    let file = format!("/proc/{}/status", child.id());
    poll("signals are handled", || {
        let status = std::fs::read_to_string(&file).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap();
        // SIGHUP, SIGINT and SIGTERM.
        u64::from_str_radix(caught.trim(), 16).unwrap() & 0x4003 == 0x4003
    });
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    poll("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Sends a signal and returns the exit status and what the process wrote to stderr.
fn stop(mut child: Child, signals: &[&str]) -> (Option<i32>, String) {
    signal(&child, signals);
    let status = wait(&mut child);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code(), text)
}

/// A named pipe: who opens it waits for the other side.
fn fifo(file: &Path) -> &str {
    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    file.to_str().unwrap()
}

#[test]
fn every_command_ends_while_it_waits_for_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipe.yaml");
    let recipe = fifo(&file);
    let commands: [&[&str]; 8] = [
        &["quantize", recipe],
        &["quantize", recipe, "--dry-run"],
        &["evaluate", recipe, "--float"],
        &["check", recipe],
        &["describe", recipe],
        &["recipes", "show", recipe],
        &["recipes", "convert", recipe],
        &["check", recipe, "--json"],
    ];
    for (command, signal) in commands.iter().zip(["-INT", "-TERM", "-HUP"].iter().cycle()) {
        let mut child = start(command, Stdio::piped());
        // Waits until the command opens the recipe, which never ends.
        let writer = File::options().write(true).open(recipe).unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (status, stderr) = stop(child, &[signal]);
        assert_eq!((status, stderr.as_str()), (Some(130), "error: stopped on request\n"), "{command:?}");
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        let json = command.contains(&"--json");
        assert_eq!(text, if json { "{\"error\":\"stopped on request\"}\n" } else { "" });
        drop(writer);
    }
}

#[test]
fn commands_end_while_nobody_reads_their_output() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().to_str().unwrap();
    for command in [&["list"][..], &["list", "--json"], &["recipes"], &["man", man], &["completions", "bash"]] {
        // A full pipe.
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b' '; 65536]).unwrap();
        let child = start(command, writer);
        wait_until_watching(&child);
        let (status, stderr) = stop(child, &["-INT"]);
        assert_eq!(status, Some(130), "{command:?}: {stderr}");
        drop(reader);
    }
}

#[test]
fn images_that_are_loaded_do_not_delay_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let demo = fixture("../cli/demo");
    for name in ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"] {
        std::fs::copy(demo.join(name), dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("t10k-images-idx3-ubyte.gz");
    let (images, data) = (fifo(&file), dir.path().to_str().unwrap());
    for command in [&["evaluate", "demo", "--float"][..], &["check", "demo"], &["quantize", "demo"]] {
        let child = start(&[command, &["--data", data]].concat(), Stdio::null());
        let writer = File::options().write(true).open(images).unwrap();
        let (status, stderr) = stop(child, &["-TERM"]);
        assert_eq!(status, Some(130), "{command:?}: {stderr}");
        drop(writer);
    }
}

#[test]
fn long_computations_end() {
    // Steps of a network of which one alone takes long, an estimate of minutes, and the measurements of `bench`.
    let commands: [(&[&str], bool); 3] = [
        (&["quantize", "imagenet/resnet50_w2a4", "--dry-run"], false),
        (&["bench", "resnet18.layer1.0", "--iters", "100000"], true),
        (&["bench", "network.resnet50"], true),
    ];
    for (command, stdout) in commands {
        let mut child = start(command, Stdio::piped());
        // The first line is printed before the computation begins.
        let mut line = String::new();
        match stdout {
            true => BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line),
            false => BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line),
        }
        .unwrap();
        assert!(line.ends_with('\n'), "{command:?}: {line}");
        let (status, stderr) = stop(child, &["-INT"]);
        assert_eq!(status, Some(130), "{command:?}: {stderr}");
        assert!(stderr.ends_with("error: stopped on request\n"), "{command:?}: {stderr}");
    }
}

/// Whether the process computes or sleeps.
fn is_running(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.lines().any(|l| l.starts_with("State:") && !l.contains('Z'))
}

#[test]
fn the_other_command_of_a_benchmark_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    // The second one takes no notice of SIGTERM.
    for (name, trap) in [("plain", ""), ("stubborn", "trap '' TERM INT HUP; ")] {
        let file = dir.path().join(name);
        let shown = file.display();
        let other = format!("{trap}sleep 1000 & echo $$ $! > {shown}.new; mv {shown}.new {shown}; wait; sleep 1000 #");
        let child = start(&["bench", "mobilenet_v2.features.16", "--iters", "1", "--against", &other], Stdio::null());
        poll("the other command runs", || file.exists());
        let processes = std::fs::read_to_string(&file).unwrap();
        assert!(processes.split_whitespace().all(is_running), "{processes}");
        let (status, stderr) = stop(child, &["-TERM"]);
        assert_eq!((status, stderr.as_str()), (Some(130), "error: stopped on request\n"), "{name}");
        poll("both processes are gone", || !processes.split_whitespace().any(is_running));
    }
}

/// A run of the demo whose first unit takes minutes, after some steps of it. `before` is put before the command.
fn within_a_unit(out: &Path, before: &str) -> Child {
    let text = format!("{before} exec \"$0\" \"$@\"");
    let mut command = with_default_signals("sh");
    command.args(["-c", &text, env!("CARGO_BIN_EXE_qdrop"), "quantize", "demo", "--out"]).arg(out);
    command.args(["--set", "compare=[]", "--set", "calibration={images: 64, observe: 32}"]);
    command.args(["--set", "evaluation={images: 100}", "--iters", "20000"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = out.join("events.jsonl");
    poll("steps of the first unit", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\""))
    });
    child
}

#[test]
fn the_same_signal_twice_at_once_keeps_the_state() {
    let dir = tempfile::tempdir().unwrap();
    for (name, signals) in [("timeout", ["-TERM"; 2]), ("terminal", ["-HUP"; 2])] {
        let out = dir.path().join(name);
        let (status, stderr) = stop(within_a_unit(&out, ""), &signals);
        assert_eq!(status, Some(130), "{stderr}");
        assert!(stderr.contains("stopping after this step; press Ctrl-C again to stop at once\n"), "{stderr}");
        let hint = format!("continue with `qdrop resume {}`: quantizing: stopped on request\n", out.display());
        assert!(stderr.contains(&hint), "{stderr}");
        assert!(out.join("checkpoints/interrupted.safetensors").exists(), "{stderr}");
    }
}

/// Nothing is kept yet, which is said.
#[test]
fn a_run_that_has_not_begun_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // The exhaustive search of ranges at 16 bits takes minutes.
    let mixed = "quant.mixed={target: avg 3 bits, choices: [2, 16]}";
    let child = start(&["quantize", "demo", "--out", out.to_str().unwrap(), "--set", mixed], Stdio::null());
    poll("the folder is made", || out.is_dir());
    std::thread::sleep(Duration::from_millis(300));
    let (status, stderr) = stop(child, &["-INT"]);
    let hint =
        format!("nothing is kept in {}, because the run had not begun; repeat the command: stopped", out.display());
    assert!(status == Some(130) && stderr.contains(&hint), "{status:?} {stderr}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_second_ctrl_c_ends_a_run_that_cannot_save_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut child = within_a_unit(&out, "");
    // Saving the state waits for a reader, who never comes.
    fifo(&out.join("checkpoints/interrupted.safetensors.partial"));
    signal(&child, &["-INT"]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("stopping after this step") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the run ended");
    }
    // Signals within 100 ms are one request.
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the state was saved");
    signal(&child, &["-INT"]);
    assert_eq!(wait(&mut child).code(), Some(130));
}

#[test]
fn ignored_signals_stay_ignored() {
    let dir = tempfile::tempdir().unwrap();
    for (name, ignored, then) in [("nohup", "HUP", "-INT"), ("background", "INT", "-TERM"), ("service", "TERM", "-HUP")]
    {
        let out = dir.path().join(name);
        let child = within_a_unit(&out, &format!("trap '' {ignored};"));
        let log = out.join("events.jsonl");
        let steps = || std::fs::read_to_string(&log).unwrap().matches("\"event\":\"step\"").count();
        let before = steps();
        signal(&child, &[&format!("-{ignored}")]);
        // Later steps show that the run goes on.
        poll("the run goes on", || steps() > before + 1);
        let (status, stderr) = stop(child, &[then]);
        assert_eq!(status, Some(130), "{stderr}");
        assert_eq!(stderr.matches("stopping after this step").count(), 1, "{stderr}");
    }
}

#[test]
fn a_stop_between_units_says_how_to_continue() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    // Saving the float network's measurement waits for a reader, who never comes.
    fifo(&out.join("float.json.partial"));
    let text = out.to_str().unwrap();
    let child = start(&["quantize", "demo", "--out", text, "--set", "cache.limit=1KiB", "--json"], Stdio::piped());
    let log = out.join("events.jsonl");
    poll("the float network is measured", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.matches("\"event\":\"finished\"").count() == 2)
    });
    let (status, stderr) = stop(child, &["-INT"]);
    assert_eq!(status, Some(130), "{stderr}");
    assert!(stderr.ends_with(&format!("error: continue with `qdrop resume {text}`: stopped on request\n")), "{stderr}");
    let leftover = out.join("cache");
    assert!(!leftover.exists() || std::fs::read_dir(&leftover).unwrap().next().is_none(), "cached values were left");
}
