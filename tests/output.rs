//! Output that cannot be written, and paths that are not Unicode: nothing panics, no result is lost, and the exit status tells.

use crate::support::*;
use qdrop_core::packed::Packed;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A run of a moment.
const SHORT: &[&str] = &[
    "--set",
    "calibration={images: 64, observe: 32}",
    "--set",
    "evaluation={images: 100}",
    "--set",
    "compare=[]",
    "--iters",
    "3",
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdrop"));
    command.args(arguments);
    command
}

/// The writing end of a pipe whose reader is gone.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// A file on a full disk.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The exit status and what was written to stderr.
fn run_to(stdout: Stdio, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(arguments).stdout(stdout).output().unwrap();
    (output.status.code(), stderr(&output).into())
}

/// Commands that end after a moment, with all ways to print a result.
fn printing(dir: &Path) -> Vec<Vec<&str>> {
    let man = dir.to_str().unwrap();
    let mut all = vec![vec!["--help"], vec!["--version"], vec!["help", "quantize"], vec!["quantize", "--help"]];
    let commands: [&[&str]; 9] = [
        &["list"],
        &["recipes"],
        &["recipes", "show", "demo"],
        &["check", "demo"],
        &["describe", "resnet18"],
        &["completions", "bash"],
        &["man", man],
        &["quantize", "imagenet/mobilenet_v2_w8a8", "--dry-run"],
        &["evaluate", "demo", "--float", "--set", "evaluation={images: 64}"],
    ];
    for command in commands {
        all.push(command.to_vec());
        all.push([command, &["--json"]].concat());
    }
    all
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in printing(dir.path()) {
        let (status, text) = run_to(closed(), &arguments);
        assert_eq!(status, Some(141), "{arguments:?}: {text}");
        assert!(!text.contains("error: ") && !text.contains("panicked"), "{arguments:?}: {text}");
    }
    let text = "\"$0\" list | head -1; echo \"${PIPESTATUS[0]}\"";
    let run = Command::new("bash").args(["-c", text, env!("CARGO_BIN_EXE_qdrop")]).output().unwrap();
    let lines = String::from_utf8(run.stdout).unwrap();
    // The list is shorter than what a pipe holds, so that `head` may end before or after the command.
    assert!(lines == "architectures\n0\n" || lines == "architectures\n141\n", "{lines}");
}

#[test]
fn a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in printing(dir.path()) {
        let (status, text) = run_to(full(), &arguments);
        assert_eq!(status, Some(1), "{arguments:?}: {text}");
        assert!(
            text.ends_with("error: cannot write the result to stdout: No space left on device (os error 28)\n"),
            "{arguments:?}: {text}"
        );
    }
    let page = dir.path().join("qdrop.1");
    std::fs::remove_file(&page).unwrap();
    std::os::unix::fs::symlink("/dev/full", &page).unwrap();
    let run = qdrop(&["man", dir.path().to_str().unwrap()]);
    assert!(run.error().contains("writing manual pages to") && run.stderr.contains("No space left"), "{}", run.stderr);
}

#[test]
fn nobody_needs_to_read_stderr() {
    for unread in [closed, full] {
        let output = command(&["check", "demo", "--json"]).stderr(unread()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(b"{\"activations\":"));
        let output = command(&["check", "demo", "--set", "quant.weight.bits=99"]).stderr(unread()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        let output = command(&["check"]).stderr(unread()).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let output = command(&["check", "--json", "--colour"]).stderr(unread()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let line = b"{\"error\":\"unexpected argument '--colour' found\"}\n";
        assert_eq!(output.stdout, line, "{}", String::from_utf8_lossy(&output.stdout));
        let failing = ["check", "demo", "--set", "quant.weight.bits=99", "--json"];
        let output = command(&failing).stderr(unread()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(value["error"].as_str().unwrap().contains("quant.weight.bits"), "{value}");
        assert_eq!(command(&failing).stdout(unread()).stderr(unread()).status().unwrap().code(), Some(1));
        // A run with all its progress.
        let arguments = [&["quantize", "demo", "--json"], SHORT].concat();
        let output = command(&arguments).stderr(unread()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["quantized"]["images"], 100);
    }
}

#[test]
fn closed_descriptors_are_as_good_as_the_null_device() {
    for (redirections, stdout) in [("2>&-", "architectures\n"), (">&-", ""), (">&- 2>&-", ""), ("<&- >&- 2>&-", "")] {
        let text = format!("exec \"$0\" list {redirections}");
        let output = Command::new("sh").args(["-c", &text, env!("CARGO_BIN_EXE_qdrop")]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{redirections}: {}", stderr(&output));
        assert!(output.stdout.starts_with(stdout.as_bytes()) && output.stderr.is_empty(), "{redirections}");
    }
}

#[test]
fn a_result_is_saved_before_it_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    for (name, stdout, want) in [("closed", closed(), 141), ("full", full(), 1)] {
        let out = dir.path().join(name);
        let out = out.to_str().unwrap();
        let (status, text) = run_to(stdout, &[&["quantize", "demo", "--out", out], SHORT].concat());
        assert_eq!(status, Some(want), "{text}");
        assert!(text.contains(&format!("saved in {out}\n")) && !text.contains("panicked"), "{text}");
        assert_eq!(qdrop(&["evaluate", out, "--json"]).json()["images"], 100);
    }
}

/// `name`, with a byte that is not Unicode.
fn odd(folder: &Path, name: &str) -> PathBuf {
    folder.join(OsString::from_vec([name.as_bytes(), b"-\xe9"].concat()))
}

/// Runs the binary with arguments of which some are not Unicode.
fn qdrop_os(arguments: &[&OsStr]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_qdrop")).args(arguments).output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

fn json(output: Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn paths_need_not_be_unicode() {
    let dir = tempfile::tempdir().unwrap();
    let folder = odd(dir.path(), "folder");
    std::fs::create_dir(&folder).unwrap();
    let demo = fixture("../cli/demo");
    let (data, weights, recipe) = (odd(&folder, "data"), odd(&folder, "weights"), odd(&folder, "recipe"));
    std::fs::create_dir(&data).unwrap();
    for file in std::fs::read_dir(&demo).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), data.join(file.file_name())).unwrap();
    }
    std::fs::copy(demo.join("weights.safetensors"), &weights).unwrap();
    let spill = "cache: {limit: 300KiB, spill: {percent_encoded: spill-%E9}}";
    let text = "extends: demo\ncompare: []\ncalibration: {images: 64, observe: 32}\nevaluation: {images: 100}\n";
    std::fs::write(&recipe, format!("{text}{spill}\n")).unwrap();
    let os = OsStr::new;
    let inputs = [os("--weights"), weights.as_os_str(), os("--data"), data.as_os_str(), os("--iters"), os("3")];
    let begin = [&[os("quantize"), recipe.as_os_str()], &inputs[..], &[os("--out")]].concat();

    let whole = odd(&folder, "whole");
    let result = json(qdrop_os(&[&begin[..], &[whole.as_os_str(), os("--json")]].concat()));
    assert_eq!(result["out"], *whole.to_string_lossy());
    assert!(folder.join(OsStr::from_bytes(b"spill-\xe9")).is_dir(), "values were spilled there");
    let model = |out: &Path| std::fs::read(out.join("model.safetensors")).unwrap();
    // The same run with ordinary paths.
    let plain = dir.path().join("plain");
    let plain = plain.to_str().unwrap();
    assert!(qdrop(&[&["quantize", "demo", "--out", plain], SHORT].concat()).ok);
    // The recipe in the file has other paths.
    let network = |out: &Path| {
        let packed = Packed::read(&out.join("model.safetensors")).unwrap();
        (packed.weights, packed.activations, packed.parameters)
    };
    assert!(network(Path::new(plain)) == network(&whole), "paths change the result");
    let measured = json(qdrop_os(&[os("evaluate"), whole.as_os_str(), os("--json")]));
    assert_eq!(measured["top1"], result["quantized"]["top1"]);
    let again = [os("evaluate"), whole.as_os_str(), os("--data"), data.as_os_str(), os("--json")];
    assert_eq!(json(qdrop_os(&again)), measured);
    let saved = std::fs::read_to_string(whole.join("recipe.yaml")).unwrap();
    assert!(saved.contains("percent_encoded: ") && saved.contains("/folder-%E9/data-%E9\n"), "{saved}");

    // Killed and resumed.
    let killed = odd(&folder, "killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_qdrop"))
        .args(&begin)
        .arg(&killed)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !killed.join("checkpoints/unit-001.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = json(qdrop_os(&[os("resume"), killed.as_os_str(), os("--json")]));
    assert_eq!(resumed["quantized"]["top1"], result["quantized"]["top1"]);
    assert!(model(&killed) == model(&whole), "the resumed result differs");
    let text = qdrop_os(&[os("resume"), killed.as_os_str()]);
    assert_eq!(
        String::from_utf8(text.stdout).unwrap(),
        format!("{} is finished; `qdrop evaluate` measures it\n", killed.display())
    );

    for command in ["check", "describe"] {
        let arguments = [&[os(command), recipe.as_os_str(), os("--json")], &inputs[..]].concat();
        assert!(!json(qdrop_os(&arguments))["units"].is_null());
    }
    let shown = json(qdrop_os(&[os("recipes"), os("show"), recipe.as_os_str(), os("--json")]));
    assert_eq!(shown["cache"]["spill"]["percent_encoded"], "spill-%E9");
    let man = odd(&folder, "man");
    let pages = json(qdrop_os(&[os("man"), man.as_os_str(), os("--json")]));
    assert!(pages["pages"][0].as_str().unwrap().ends_with("man-\u{fffd}/qdrop-analyze.1"), "{pages}");
    let missing = qdrop_os(&[os("check"), odd(&folder, "missing").as_os_str(), os("--json")]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("there is no file and no built-in recipe '"), "{}", stderr(&missing));
    let plugin = qdrop_os(&[os("list"), os("--plugin"), weights.as_os_str()]);
    assert!(stderr(&plugin).contains("is a static build and cannot load plugins"), "{}", stderr(&plugin));
}
