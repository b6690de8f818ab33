//! The recipes of the library and of linked crates, and the demo's files.

use crate::error::{At, Result, Stage};
use include_dir::{include_dir, Dir};
use qdrop_core::inventory;
use qdrop_core::recipe::RecipeKind;
use qdrop_core::registry::Entry;
use qdrop_core::Error as Core;
use std::path::PathBuf;
use std::sync::Mutex;

/// The name of `imagenet/x.yaml` is `imagenet/x`. Names with a leading underscore can only be inherited from.
static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

/// The recipe whose files are part of the library.
pub(super) const DEMO_RECIPE: &str = "demo";

/// The data files of the `demo` recipe.
const DEMO: &[(&str, &[u8])] = &[
    ("weights.safetensors", include_bytes!("../../demo/weights.safetensors")),
    ("train-images-idx3-ubyte.gz", include_bytes!("../../demo/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../../demo/train-labels-idx1-ubyte.gz")),
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../../demo/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../../demo/t10k-labels-idx1-ubyte.gz")),
];

/// This file is not a recipe: it maps the reference's names of networks.
const REFERENCE_MODELS: &str = "reference_models";

/// Names of the recipes that can be run: those of the library, and those that plugins and linked crates register.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![&BUILT_IN];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")) {
            // Windows separates folders otherwise, but the name of a recipe must be the same.
            let parts: Vec<_> = file.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
            names.push(parts.join("/"));
        }
    }
    names.extend(registered().map(|e| e.name.to_string()));
    names.retain(|name| !name.split('/').any(|part| part.starts_with('_')) && name != REFERENCE_MODELS);
    names.sort();
    names
}

/// The recipes that plugins and linked crates register.
fn registered() -> impl Iterator<Item = &'static Entry<RecipeKind>> {
    inventory::iter::<Entry<RecipeKind>>.into_iter()
}

/// The text of a built-in or registered recipe.
pub(super) fn text(name: &str) -> Option<&'static str> {
    match BUILT_IN.get_file(format!("{name}.yaml")) {
        Some(file) => file.contents_utf8(),
        None => registered().find(|e| e.name == name).map(|e| e.constructor.0),
    }
}

/// The folder with the demo's files, which are written on first use. Its name contains a hash of the files, so
/// that another version of qdrop never uses the wrong ones.
pub(crate) fn demo_folder() -> Result<PathBuf> {
    /// One thread writes at a time. Other processes do not interfere, because their partial files have other names.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock().unwrap_or_else(|e| e.into_inner());
    let folder = std::env::temp_dir().join(format!("qdrop-demo-{:016x}", fingerprint()));
    std::fs::create_dir_all(&folder).map_err(Core::io("create", &folder)).at(Stage::Recipe)?;
    for (name, content) in DEMO {
        let file = folder.join(name);
        if std::fs::metadata(&file).is_ok_and(|m| m.len() == content.len() as u64) {
            continue;
        }
        let partial = folder.join(format!("{name}.{}", std::process::id()));
        let written = std::fs::write(&partial, content).and_then(|()| std::fs::rename(&partial, &file));
        written.map_err(Core::io("write", &file)).at(Stage::Recipe)?;
    }
    Ok(folder)
}

/// FNV-1a hash of the files' contents.
fn fingerprint() -> u64 {
    let bytes = DEMO.iter().flat_map(|(_, content)| content.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
