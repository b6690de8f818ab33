//! The plugin SDK: the libraries and flags that plugins are compiled with.
//!
//! A distribution contains the framework's shared library in `lib/` and the metadata of
//! the crates that it was built from in `sdk/`. A plugin's manifest names none of them. Instead, compiler flags point
//! to `qdrop_core`, so that plugins use this same library and build in seconds.

use super::interrupt::output_of;
use anyhow::{bail, Context, Result};
use qdrop_core::plugin::{shared_library, Stamp, LIBRARY};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The SDK of this program.
pub struct Sdk {
    library: PathBuf,
    metadata: PathBuf,
    rustc: String,
    target: String,
}

impl Sdk {
    /// Finds the SDK next to the framework's shared library.
    pub fn find() -> Result<Self> {
        let Some(library) = shared_library() else {
            bail!(
                "this qdrop is a static build and has no plugin SDK; use the distribution that `cargo run --release -p \
                 qdrop-dynamic --example package -- DIR` makes"
            );
        };
        let metadata = library.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("sdk");
        if !metadata.is_dir() {
            bail!(
                "{}: the plugin SDK is missing; use the distribution that `cargo run --release -p qdrop-dynamic \
                 --example package -- DIR` makes",
                metadata.display()
            );
        }
        if library.to_str().is_none() {
            let message = "cargo's settings cannot contain a path that is not Unicode; move the distribution";
            bail!("{}: {message}", library.display());
        }
        let stamp = Stamp::of_this_build();
        let row = |name: &str| stamp.rows().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()).unwrap_or_default();
        Ok(Self { library, metadata, rustc: row("rustc"), target: row("target") })
    }

    /// The target that plugins are built for.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The compiler's flags. The last one makes a plugin's own tests find the library.
    pub fn flags(&self) -> Vec<String> {
        let folder = self.library.parent().unwrap_or(Path::new(""));
        vec![
            "--extern".into(),
            format!("qdrop_core={}", self.library.display()),
            "-L".into(),
            format!("dependency={}", self.metadata.display()),
            "-L".into(),
            format!("native={}", folder.display()),
            "-C".into(),
            format!("link-arg=-Wl,-rpath,{}", folder.display()),
        ]
    }

    /// Checks that the compiler on this machine is the one that built qdrop.
    pub fn check_compiler(&self) -> Result<()> {
        let output = output_of(Command::new("rustc").arg("--version").stderr(Stdio::piped()));
        let output = output.context("running rustc, which builds plugins; is Rust installed?")?;
        let found = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if found != self.rustc {
            bail!(
                "this qdrop was built with {}, but the machine has {found}; plugins need the same compiler",
                self.rustc
            );
        }
        Ok(())
    }

    /// Builds the crate in `dir` and returns the plugin's file.
    pub fn build(&self, dir: &Path) -> Result<PathBuf> {
        self.check_compiler()?;
        let manifest = dir.join("Cargo.toml");
        if !manifest.is_file() {
            bail!("{} holds no crate: Cargo.toml is missing", dir.display());
        }
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--lib", "--message-format=json-render-diagnostics", "--manifest-path"]);
        // With an explicit target, the flags do not apply to build scripts and procedural macros.
        command.arg(&manifest).args(["--target", &self.target]);
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", self.flags().join("\x1f"));
        let output = output_of(command.stderr(Stdio::inherit())).context("running cargo")?;
        if !output.status.success() {
            bail!("{}: the plugin does not build; cargo says above why", dir.display());
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let file = messages.lines().filter_map(|line| library_of(line, &manifest)).next_back();
        file.with_context(|| {
            format!("{}: no shared library was built; the crate needs [lib] crate-type = [\"cdylib\"]", dir.display())
        })
    }
}

/// The shared library that was built from the manifest, if this message of cargo reports one.
fn library_of(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let same = Path::new(message["manifest_path"].as_str()?).canonicalize().ok()? == manifest.canonicalize().ok()?;
    let files = message["filenames"].as_array()?.iter().filter_map(|f| f.as_str());
    let mut libraries = files.map(PathBuf::from).filter(|f| {
        f.extension().is_some_and(|e| e == std::env::consts::DLL_EXTENSION) && !f.to_string_lossy().contains(LIBRARY)
    });
    libraries.next().filter(|_| same)
}
