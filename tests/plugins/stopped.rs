//! Commands about plugins that are stopped, and plugins whose paths are not Unicode.

use crate::support::*;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn poll(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn cargo_ends_with_plugin_build() {
    let dir = outside();
    let (folder, file) = (dir.path().join("slow"), dir.path().join("process"));
    qdrop(&["plugin", "new", text(&folder), "--kind", "observer"]).success();
    let script = format!(
        "fn main() {{\n    let file = std::path::Path::new({file:?});\n    \
         std::fs::write(file.with_extension(\"new\"), std::process::id().to_string()).unwrap();\n    \
         std::fs::rename(file.with_extension(\"new\"), file).unwrap();\n    \
         std::thread::sleep(std::time::Duration::from_secs(1000));\n}}\n"
    );
    std::fs::write(folder.join("build.rs"), script).unwrap();
    let mut command = command(&["plugin", "build", text(&folder)]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    poll("the build script runs", || file.exists());
    let process = std::fs::read_to_string(&file).unwrap();
    terminate(&child);
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.ends_with("error: stopped on request\n"), "{stderr}");
    poll("the build script ends", || {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        !status.lines().any(|l| l.starts_with("State:") && !l.contains('Z'))
    });
}

#[test]
fn plugin_test_ends_while_nobody_reads_its_output() {
    // A full pipe.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b' '; 65536]).unwrap();
    let mut command = command(&["plugin", "test", text(percentile())]);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let file = format!("/proc/{}/status", child.id());
    poll("signals are handled", || {
        let status = std::fs::read_to_string(&file).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 0x4003 == 0x4003
    });
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(reader);
}

#[test]
fn the_path_of_a_plugin_need_not_be_unicode() {
    let dir = outside();
    let file = dir.path().join(OsString::from_vec(b"plugin-\xe9.so".to_vec()));
    std::fs::copy(percentile(), &file).unwrap();
    let out = dir.path().join("out");
    let mut command = command(&[&["quantize", "demo", "--json"], SMALL].concat());
    command.args(["--set", "quant.activation.observer=percentile", "--out", text(&out)]);
    let saved = run({
        command.args([OsStr::new("--plugin"), file.as_os_str()]);
        command
    });
    let saved = saved.json();
    let recipe = std::fs::read_to_string(out.join("recipe.yaml")).unwrap();
    assert!(recipe.contains("- percent_encoded: ") && recipe.contains("/plugin-%E9.so\n"), "{recipe}");
    // Another process loads the plugin that the recipe names.
    assert_eq!(qdrop(&["evaluate", text(&out), "--json"]).json()["top1"], saved["quantized"]["top1"]);
}
