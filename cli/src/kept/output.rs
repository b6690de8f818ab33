//! Files that the user names for a result.

use super::{Flatness, FLOAT_FILE, IMAGES_FILE, REPORT_FILE, SENSITIVITY_FILE, SITES_FILE};
use qdrop_core::run_directory::{check_writable, destination, partial};
use qdrop_core::run_directory::{CHECKPOINTS, EVENTS_FILE, LOCK_FILE, MANIFEST_FILE};
use qdrop_core::run_directory::{MODEL_FILE, RECIPE_FILE, SPILL, SUMMARY_FILE, VARIANTS};
use qdrop_core::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// What a run's folder holds.
const OWN: [&str; 17] = [
    MANIFEST_FILE,
    RECIPE_FILE,
    LOCK_FILE,
    EVENTS_FILE,
    CHECKPOINTS,
    VARIANTS,
    SPILL,
    FLOAT_FILE,
    SENSITIVITY_FILE,
    SITES_FILE,
    MODEL_FILE,
    SUMMARY_FILE,
    IMAGES_FILE,
    REPORT_FILE,
    Flatness::FILE,
    Flatness::TABLE,
    Flatness::FIGURE,
];

/// Checks that the file, which the user names for a result, can be written, and that no run consists of it. What it will be is said by
/// `extensions`, the usual one first; a name without one is anything.
///
/// # Errors
/// It cannot be written, it is a file of a run, or its extension is that of another format.
pub(crate) fn check_output(file: &Path, extensions: &[&str]) -> Result<()> {
    if let Some(extension) = file.extension().map(|extension| extension.to_string_lossy().to_lowercase()) {
        if let Some(usual) = extensions.first().filter(|_| !extensions.contains(&&*extension)) {
            let message =
                format!("would hold {}, as its name does not say; end it with .{usual}", usual.to_uppercase());
            return Err(Error::data(file, message));
        }
    }
    let to = destination(file)?;
    let in_the_way = partial(&to);
    if in_the_way.symlink_metadata().is_ok() {
        let message = format!("is written as {} first, which exists already; remove that", in_the_way.display());
        return Err(Error::data(file, message));
    }
    let real = real(&to);
    for run in real.ancestors().skip(1).filter(|folder| folder.join(MANIFEST_FILE).is_file()) {
        let within = real.strip_prefix(run).ok().and_then(|rest| rest.components().next());
        let Some(Component::Normal(name)) = within else { continue };
        let name = name.to_string_lossy();
        if OWN.contains(&&*name) || is_variant_file(&name) {
            let message = format!("is a part of the run in {}; choose another name", run.display());
            return Err(Error::data(file, message));
        }
    }
    check_writable(file)
}

/// Whether it is the name of the result of a variant.
fn is_variant_file(name: &str) -> bool {
    let number = name.strip_prefix("compare-").and_then(|rest| rest.strip_suffix(".json"));
    number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The file's path without links, as far as it exists.
fn real(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.into());
    let existing = file.ancestors().find_map(|part| Some((part, std::fs::canonicalize(part).ok()?)));
    let Some((part, real)) = existing else { return file };
    match file.strip_prefix(part) {
        Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
        _ => real,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::variant_file;

    #[test]
    fn no_file_of_a_run_is_an_output() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("run");
        std::fs::create_dir_all(run.join("checkpoints")).unwrap();
        std::fs::create_dir(temp.path().join("empty")).unwrap();
        std::fs::write(run.join(MANIFEST_FILE), "{}").unwrap();
        let refused = |path: &Path| check_output(path, &[]).unwrap_err().to_string();
        let inside = ["run.json", "model.safetensors", "checkpoints/unit-001.safetensors", "summary.json", "lock"];
        // Files that do not exist yet too: a summary would finish the run.
        for name in inside.iter().map(|name| name.to_string()).chain([variant_file(12)]) {
            let error = refused(&run.join(&name));
            assert!(error.contains(&name) && error.contains("is a part of the run in"), "{error}");
        }
        assert!(refused(&run.join("../run/./run.json")).contains("is a part of the run"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&run, temp.path().join("link")).unwrap();
            std::os::unix::fs::symlink(run.join(MANIFEST_FILE), temp.path().join("file")).unwrap();
            assert!(refused(&temp.path().join("link/summary.json")).contains("is a part of the run"));
            assert!(refused(&temp.path().join("file")).contains("is a part of the run"));
            // Also one that leads to nothing yet.
            std::os::unix::fs::symlink("run/summary.json", temp.path().join("dangling")).unwrap();
            assert!(refused(&temp.path().join("dangling")).contains("is a part of the run"));
        }
        for name in ["page.html", "compare-all.json", "compare-.html"] {
            check_output(&run.join(name), &[]).unwrap();
        }
        check_output(&temp.path().join("empty/summary.json"), &[]).unwrap();
        for (name, ok) in [("page.html", true), ("page.HTM", true), ("page", true), ("page.pdf", false)] {
            assert_eq!(check_output(&temp.path().join(name), &["html", "htm"]).is_ok(), ok, "{name}");
        }
        assert!(refused(&run).contains("is a folder"));
        // Nothing of the user is lost beside it.
        std::fs::write(temp.path().join("a.partial"), "precious").unwrap();
        assert!(refused(&temp.path().join("a")).contains("a.partial first, which exists already"));
        assert_eq!(std::fs::read(temp.path().join("a.partial")).unwrap(), b"precious");
    }
}
