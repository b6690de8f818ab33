//! Makes a distribution: a folder (or a `.tar` archive of it) with the program, which can be moved anywhere and can
//! build and load plugins.
//!
//! `cargo run --release -p qdrop-dynamic --example package -- DIR [--archive] [--features cuda]`
//!
//! | file | content |
//! | --- | --- |
//! | `qdrop` | the program |
//! | `lib/` | the framework as a shared library, and the Rust standard library if needed |
//! | `sdk/` | metadata that plugins are compiled with |
//! | `LICENSE-*`, `README.md` | as in the repository |

#![expect(clippy::print_stdout, reason = "prints the files that it made")]

use anyhow::{bail, Context, Result};
use clap::Parser;
use qdrop_core::plugin::LIBRARY;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes a distribution of qdrop.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder to make; it must not exist.
    dir: PathBuf,
    /// Also pack it into DIR.tar.
    #[arg(long)]
    archive: bool,
    /// Features of the program, such as cuda.
    #[arg(long, default_value = "")]
    features: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let dir = &arguments.dir;
    if dir.exists() {
        bail!("{} exists already", dir.display());
    }
    let artifacts = build(&arguments.features)?;
    for folder in ["lib", "sdk"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
        copy(&repository.join(name), &dir.join(name))?;
    }
    copy(&artifacts.program, &dir.join("qdrop"))?;
    copy(&artifacts.library, &dir.join("lib").join(file_name(&artifacts.library)))?;
    for library in standard_libraries(&artifacts)? {
        copy(&library, &dir.join("lib").join(file_name(&library)))?;
    }
    for file in &artifacts.metadata {
        copy(file, &dir.join("sdk").join(file_name(file)))?;
    }
    println!("{}", dir.display());
    if arguments.archive {
        let archive = dir.with_extension("tar");
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let status = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(parent).arg(file_name(dir)).status();
        if !status.context("running tar")?.success() {
            bail!("tar could not write {}", archive.display());
        }
        println!("{}", archive.display());
    }
    Ok(())
}

/// What cargo built.
struct Artifacts {
    program: PathBuf,
    library: PathBuf,
    /// Metadata of the crates that the library was built from, and their procedural macros.
    metadata: Vec<PathBuf>,
}

fn build(features: &str) -> Result<Artifacts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "-p", "qdrop-dynamic"]);
    command.args(["--features", features, "--message-format=json-render-diagnostics"]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let output = command.stderr(Stdio::inherit()).output().context("running cargo")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    let (mut program, mut library, mut metadata) = (None, None, Vec::new());
    for line in String::from_utf8(output.stdout).context("reading cargo's messages")?.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("reading cargo's messages")?;
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let kinds = &message["target"]["kind"];
        let is = |kind: &str| kinds.as_array().is_some_and(|k| k.iter().any(|k| k == kind));
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).map(PathBuf::from);
        for file in files {
            let name = file_name(&file);
            if is("bin") && name == "qdrop-dynamic" {
                program = Some(file);
            } else if name.contains(LIBRARY) && name.ends_with(std::env::consts::DLL_SUFFIX) {
                library = Some(file);
            } else if name.ends_with(".rmeta") || is("proc-macro") {
                metadata.push(file);
            }
        }
    }
    Ok(Artifacts {
        program: program.context("cargo built no program")?,
        library: library.context("cargo built no shared library")?,
        metadata,
    })
}

/// The compiler's shared libraries that the program and its library need.
fn standard_libraries(artifacts: &Artifacts) -> Result<Vec<PathBuf>> {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).output().context("running rustc")?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).context("reading rustc's answer")?.trim());
    let program = std::fs::read(&artifacts.program).context("reading the program")?;
    let library = std::fs::read(&artifacts.library).context("reading the library")?;
    let mut needed = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let file = entry?.path();
        let name = file_name(&file);
        // The file contains the names of the libraries that it needs.
        let named = |bytes: &[u8]| bytes.windows(name.len()).any(|w| w == name.as_bytes());
        if name.ends_with(std::env::consts::DLL_SUFFIX) && (named(&program) || named(&library)) {
            needed.push(file);
        }
    }
    Ok(needed)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
