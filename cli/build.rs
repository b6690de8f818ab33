//! The commit and the features that the program is built from, for `--version`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    let commit = packaged(&package).or_else(|| checked_out(&package)).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=QDROP_COMMIT={commit}");

    // `cli` is no difference between programs: all of them have it.
    let hidden = ["default", "cli"];
    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(key, _)| Some(key.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .filter(|feature| !hidden.contains(&feature.as_str()))
        .collect();
    features.sort();
    let features = if features.is_empty() { "none".into() } else { features.join(" ") };
    println!("cargo:rustc-env=QDROP_FEATURES={features}");
}

/// Digits of a commit that are told.
const DIGITS: usize = 7;

/// The commit that a published package was made from, which cargo writes into it.
fn packaged(package: &Path) -> Option<String> {
    let text = std::fs::read_to_string(package.join(".cargo_vcs_info.json")).ok()?;
    println!("cargo:rerun-if-changed=.cargo_vcs_info.json");
    // {"git": {"sha1": "..."}, ...}
    text.split("\"sha1\"").nth(1)?.split('"').nth(1)?.get(..DIGITS).map(Into::into)
}

/// The commit that is checked out in the repository that the package is part of.
fn checked_out(package: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(package).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    // Not that of another repository, which the sources were copied into.
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != package.parent()?.canonicalize().ok()? {
        return None;
    }
    // What changes with the commit: the branch that is checked out, and its commit. A file that is missing would make
    // cargo run this at every build.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", &branch] {
        if let Some(file) = git(&["rev-parse", "--git-path", name]).map(|file| package.join(file)) {
            if file.is_file() {
                println!("cargo:rerun-if-changed={}", file.display());
            }
        }
    }
    git(&["rev-parse", "--verify", "HEAD"])?.get(..DIGITS).map(Into::into)
}
