//! The recipes of the library and of linked crates, and the files of the demos.

use crate::error::{At, Result, Stage};
use include_dir::{include_dir, Dir};
use qdrop_core::inventory;
use qdrop_core::recipe::RecipeKind;
use qdrop_core::registry::Entry;
use qdrop_core::Error as Core;
use serde_yaml::Value;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// The name of `imagenet/x.yaml` is `imagenet/x`. Names with a leading underscore can only be inherited from.
static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

/// The recipes whose networks and images are part of the library.
static DEMOS: [Demo; 2] = [
    Demo::new("demo", include_dir!("$CARGO_MANIFEST_DIR/demo")),
    Demo::new("demo/detection", include_dir!("$CARGO_MANIFEST_DIR/demo_detection")),
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

/// The folder with the files of the recipe `name`, if they are part of the library. They are written on first use.
pub(super) fn demo_folder(name: &str) -> Result<Option<PathBuf>> {
    DEMOS.iter().find(|demo| demo.recipe == name).map(Demo::write).transpose()
}

/// Writes the files that a saved recipe names, if they were deleted since.
pub(crate) fn restore_demos(recipe: &Value) -> Result<()> {
    let named = DEMOS.iter().filter(|demo| mentions(recipe, demo.folder()));
    named.map(Demo::write).collect::<Result<Vec<_>>>().map(drop)
}

/// Whether a text in `value` contains `name`.
fn mentions(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text.contains(name),
        Value::Sequence(values) => values.iter().any(|value| mentions(value, name)),
        Value::Mapping(map) => map.values().any(|value| mentions(value, name)),
        _ => false,
    }
}

/// A recipe with the files that it needs.
struct Demo {
    recipe: &'static str,
    files: Dir<'static>,
    folder: OnceLock<String>,
}

impl Demo {
    const fn new(recipe: &'static str, files: Dir<'static>) -> Self {
        Self { recipe, files, folder: OnceLock::new() }
    }

    /// The name of the folder. It contains a hash of the files, so that another version of qdrop never uses the wrong ones.
    fn folder(&self) -> &str {
        self.folder.get_or_init(|| format!("qdrop-demo-{:016x}", fingerprint(&self.files, 0xcbf2_9ce4_8422_2325)))
    }

    /// Writes the files that are not there.
    fn write(&self) -> Result<PathBuf> {
        /// One thread writes at a time. Other processes do not interfere, because their partial files have other names.
        static WRITING: Mutex<()> = Mutex::new(());
        let _one = WRITING.lock().unwrap_or_else(|e| e.into_inner());
        let folder = std::env::temp_dir().join(self.folder());
        write(&self.files, &folder)?;
        Ok(folder)
    }
}

/// Writes the files of `from`, and of folders in it, to `folder`.
fn write(from: &Dir<'_>, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Core::io("create", folder)).at(Stage::Recipe)?;
    for (embedded, name) in from.files().filter_map(|file| Some((file, file.path().file_name()?.to_str()?))) {
        let (file, content) = (folder.join(name), embedded.contents());
        if std::fs::metadata(&file).is_ok_and(|m| m.len() == content.len() as u64) {
            continue;
        }
        let partial = folder.join(format!("{name}.{}", std::process::id()));
        let written = std::fs::write(&partial, content).and_then(|()| std::fs::rename(&partial, &file));
        written.map_err(Core::io("write", &file)).at(Stage::Recipe)?;
    }
    let folders = from.dirs().filter_map(|dir| Some((dir, dir.path().file_name()?)));
    folders.into_iter().try_for_each(|(dir, name)| write(dir, &folder.join(name)))
}

/// FNV-1a hash of the contents of all files in a folder, continued from `hash`.
fn fingerprint(folder: &Dir<'_>, hash: u64) -> u64 {
    let hash = folder
        .files()
        .flat_map(|file| file.contents())
        .fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    folder.dirs().fold(hash, |h, dir| fingerprint(dir, h))
}
