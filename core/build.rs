//! What a plugin must have in common with the program that loads it, as constants of the crate.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let core = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let sources = [
        core.join("src"),
        core.join("cuda"),
        core.join("kernels/src"),
        core.join("Cargo.toml"),
        core.join("kernels/Cargo.toml"),
    ];
    let mut files = Vec::new();
    for source in sources.iter().filter(|source| source.exists()) {
        println!("cargo:rerun-if-changed={}", source.display());
        collect(source, &mut files);
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        // Relative: the same source in another folder is the same source.
        hash.update(file.strip_prefix(&core).unwrap_or(file).to_string_lossy().as_bytes());
        hash.update(std::fs::read(file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display())));
    }
    let hash: String = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();

    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(key, _)| Some(key.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        // The loader is no difference: only programs that have it look at stamps.
        .filter(|feature| feature != "default" && feature != "dynamic_plugins")
        .collect();
    features.sort();
    let features = if features.is_empty() { "none".into() } else { features.join(" ") };

    let variables = [
        ("RUSTC", rustc_version()),
        ("SOURCE", hash),
        ("CANDLE", candle_version(&core)),
        ("FEATURES", features),
        ("PROFILE", std::env::var("PROFILE").unwrap_or_default()),
        ("TARGET", std::env::var("TARGET").unwrap_or_default()),
    ];
    for (name, value) in variables {
        println!("cargo:rustc-env=QDROP_STAMP_{name}={value}");
    }
}

/// All files below a path.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| collect(&entry.path(), files)),
        Err(_) if path.is_file() => files.push(path.into()),
        // A published package has no folder of the kernels; their version is fixed by the manifest.
        Err(_) => {}
    }
}

fn rustc_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// The version that the lock file names.
fn candle_version(core: &Path) -> String {
    // The workspace's, or that of a published package.
    let locks = [core.join("../Cargo.lock"), core.join("Cargo.lock")];
    let Some(lock) = locks.iter().find(|lock| lock.is_file()) else { return "unknown".into() };
    println!("cargo:rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let after = text.split("name = \"candle-core\"").nth(1).unwrap_or_default();
    after.split('"').nth(1).unwrap_or("unknown").into()
}
