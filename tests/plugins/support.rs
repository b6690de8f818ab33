//! Helpers of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Settings with which the demo runs in one or two seconds.
pub const SMALL: &[&str] = &[
    "--set",
    "compare=[]",
    "--set",
    "calibration={images: 32, observe: 32}",
    "--set",
    "evaluation.images=100",
    "--iters",
    "5",
];

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A fresh folder outside of the repository.
pub fn outside() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    assert!(!dir.path().starts_with(repository("").canonicalize().unwrap()));
    dir
}

/// The distribution, made once by the README's command and then moved.
pub fn distribution() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = outside();
        let made = dir.path().join("made here");
        let mut command = Command::new(env!("CARGO"));
        command.args(["run", "--release", "--locked", "-p", "qdrop-dynamic", "--example", "package", "--"]);
        let output = command.arg(&made).arg("--archive").current_dir(repository("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(made.with_extension("tar").is_file());
        std::fs::remove_file(made.with_extension("tar")).unwrap();
        std::fs::rename(&made, dir.path().join("moved there")).unwrap();
        dir
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| dir.path().join("moved there"))
}

/// What a run printed.
pub struct Run {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn success(&self) {
        assert!(self.ok, "{} {}", self.stdout, self.stderr);
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert!(self.ok, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The message of a failed run.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert!(!self.ok, "the command succeeded: {}", self.stdout);
        // The last one, because cargo's messages come before it.
        self.stderr.lines().rfind(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{}", self.stderr))
    }
}

pub fn run(mut command: Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { ok: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The distribution's program, without environment variables that help it to find its libraries, and with default signals:
/// what started the tests may ignore some.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,TERM").arg(distribution().join("qdrop"));
    command.args(arguments).env_remove("LD_LIBRARY_PATH").env_remove("QDROP_PLUGIN_PATH");
    command
}

pub fn qdrop(arguments: &[&str]) -> Run {
    run(command(arguments))
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Copies a folder of sources without its build outputs.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            if entry.file_name() != "target" {
                copy_folder(&path, &target);
            }
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Builds a plugin crate of the repository in a folder outside of it, and returns the built file.
pub fn build_copy(crate_folder: &str, dir: &Path) -> PathBuf {
    let copy = dir.join(Path::new(crate_folder).file_name().unwrap());
    copy_folder(&repository(crate_folder), &copy);
    let built = qdrop(&["plugin", "build", text(&copy), "--json"]).json();
    PathBuf::from(built["path"].as_str().unwrap())
}

/// A good plugin, built once.
pub fn percentile() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = BUILT.get_or_init(|| {
        let dir = outside();
        let file = build_copy("plugins/dynamic/percentile", dir.path());
        (dir, file)
    });
    file
}
