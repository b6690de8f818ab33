//! Passes the commit and the features of the build to the program, for `--version`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    let commit = packaged(&package).or_else(|| checked_out(&package)).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=QDROP_COMMIT={commit}");

    // All programs have the feature `cli`, so it is not shown.
    let hidden = ["default", "cli"];
    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(key, _)| Some(key.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .filter(|feature| !hidden.contains(&feature.as_str()))
        .collect();
    features.sort();
    let features = if features.is_empty() { "none".into() } else { features.join(" ") };
    println!("cargo:rustc-env=QDROP_FEATURES={features}");
}

/// Number of digits of a commit that are shown.
const DIGITS: usize = 7;

/// The commit of a published package, which cargo writes into the package.
fn packaged(package: &Path) -> Option<String> {
    let text = std::fs::read_to_string(package.join(".cargo_vcs_info.json")).ok()?;
    println!("cargo:rerun-if-changed=.cargo_vcs_info.json");
    // {"git": {"sha1": "..."}, ...}
    text.split("\"sha1\"").nth(1)?.split('"').nth(1)?.get(..DIGITS).map(Into::into)
}

/// The commit that is checked out in the package's repository.
fn checked_out(package: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(package).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    // The sources may have been copied into another repository, whose commit would be wrong.
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != package.parent()?.canonicalize().ok()? {
        return None;
    }
    // These files change with the branch and the commit. A missing file would make cargo run this script at every
    // build, so only existing ones are named.
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
