//! Finding a recipe: built-in ones, files, inheritance and changes from the command line.

use crate::arguments::RecipeArguments;
use crate::{convert, plugins};
use anyhow::{anyhow, bail, Context, Result};
use include_dir::{include_dir, Dir};
use qdrop_core::inventory;
use qdrop_core::recipe::{apply_set, merge, parse_yaml, Recipe, RecipeKind};
use qdrop_core::registry::{nearest, Entry};
use qdrop_core::run_directory::RECIPE_FILE;
use serde_yaml::{Mapping, Value};
use std::path::{Path, PathBuf};

/// Built-in recipes; `imagenet/x.yaml` is called `imagenet/x`. Names that begin with an underscore
/// are only inherited from.
static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

/// Files of the `demo` recipe.
const DEMO: &[(&str, &[u8])] = &[
    ("weights.safetensors", include_bytes!("../demo/weights.safetensors")),
    ("train-images-idx3-ubyte.gz", include_bytes!("../demo/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../demo/train-labels-idx1-ubyte.gz")),
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../demo/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../demo/t10k-labels-idx1-ubyte.gz")),
];

/// Not a recipe: what the reference implementation calls the networks.
const REFERENCE_MODELS: &str = "reference_models";
/// How deep recipes may inherit.
const MAX_DEPTH: usize = 8;

/// Names of the built-in recipes that can be run.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![&BUILT_IN];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        let files = folder.files().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml"));
        names.extend(files.map(|p| p.with_extension("").to_string_lossy().into_owned()));
    }
    names.extend(registered().map(|e| e.name.to_string()));
    names.retain(|name| !name.split('/').any(|part| part.starts_with('_')) && name != REFERENCE_MODELS);
    names.sort();
    names
}

/// The recipes that plugins and linked crates bring along.
fn registered() -> impl Iterator<Item = &'static Entry<RecipeKind>> {
    inventory::iter::<Entry<RecipeKind>>.into_iter()
}

/// The text of a built-in recipe. A file or folder of the same name does not hide it.
fn built_in(name: &str) -> Option<&'static str> {
    match BUILT_IN.get_file(format!("{name}.yaml")) {
        Some(file) => file.contents_utf8(),
        None => registered().find(|e| e.name == name).map(|e| e.constructor.0),
    }
}

/// Whether a built-in recipe has this name.
pub fn is_built_in(name: &str) -> bool {
    built_in(name).is_some()
}

/// Whether this is the name of a built-in recipe, or of a file or folder.
pub fn exists(name: &str) -> bool {
    is_built_in(name) || Path::new(name).exists()
}

/// The recipe of a command with all its changes.
pub fn load(arguments: &RecipeArguments) -> Result<Recipe> {
    let (value, origin) = read(&arguments.recipe, 0)?;
    changed(value, &origin, arguments)
}

/// A built-in recipe as it is.
pub fn named(name: &str) -> Result<Recipe> {
    let (value, origin) = read(name, 0)?;
    Ok(Recipe::from_value(value, &origin)?)
}

/// As [`load`], but of the recipe `base` with one more change before those of the command.
pub fn load_with(arguments: &RecipeArguments, base: &str, change: &str) -> Result<Recipe> {
    let (mut value, origin) = read(base, 0)?;
    apply_set(&mut value, change)?;
    changed(value, &origin, arguments)
}

fn changed(mut value: Value, origin: &Path, arguments: &RecipeArguments) -> Result<Recipe> {
    for change in &arguments.set {
        apply_set(&mut value, change)?;
    }
    let mut recipe = Recipe::from_value(value, origin)?;
    // Absolute, so that a saved recipe means the same from everywhere.
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("resolving {}", path.display()));
    recipe.base_dir = match recipe.base_dir.as_os_str().is_empty() {
        true => std::env::current_dir().context("finding the current folder")?,
        false => absolute(&recipe.base_dir)?,
    };
    // A run that is resumed needs the same plugins.
    for path in plugins::loaded_files() {
        if !recipe.plugins.contains(&path) {
            recipe.plugins.push(path);
        }
    }
    recipe.run_iters = arguments.iters.or(recipe.run_iters);
    recipe.engine = arguments.engine.map_or(recipe.engine, Into::into);
    if let Some(weights) = &arguments.weights {
        recipe.model.weights = Some(absolute(weights)?);
    }
    if let Some(data) = &arguments.data {
        recipe.data_root = Some(absolute(data)?);
    }
    Ok(recipe)
}

/// A recipe with what it inherits, and the file that relative paths start from.
fn read(name: &str, depth: usize) -> Result<(Value, PathBuf)> {
    if depth > MAX_DEPTH {
        bail!("recipe '{name}': more than {MAX_DEPTH} levels of `extends`; does it extend itself?");
    }
    let file = match Path::new(name) {
        // A saved result stands for its recipe.
        folder if folder.is_dir() => folder.join(RECIPE_FILE),
        file => file.into(),
    };
    let (text, origin) = match built_in(name) {
        // Whatever its name: its relative paths are those of the demo's files.
        Some(text) => (text.to_string(), demo_folder()?.join(name.replace('/', "-"))),
        None if file.exists() => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading recipe {}", file.display()))?;
            // The demo's files may have been cleaned away since its result was saved.
            demo_folder()?;
            (text, file)
        }
        None => return Err(unknown(name)),
    };
    let mut value = parse_yaml(&text, &origin)?;
    if convert::recognizes(&value) {
        return Ok((convert::to_recipe(value, &origin)?, origin));
    }
    // Before the recipe is read further: it may extend a recipe of its plugins.
    plugins::load_of_recipe(&mut value, &origin)?;
    let parents = match value.as_mapping_mut().and_then(|m| m.remove("extends")) {
        None => return Ok((value, origin)),
        Some(Value::Sequence(parents)) => parents,
        Some(parent) => vec![parent],
    };
    let mut base = Value::Mapping(Mapping::new());
    for parent in parents {
        let Some(parent) = parent.as_str() else {
            bail!("recipe '{name}': `extends` takes the name of a recipe, or a list of names");
        };
        let relative = origin.parent().unwrap_or(Path::new("")).join(parent);
        let parent = if relative.is_file() { relative.to_string_lossy().into_owned() } else { parent.into() };
        let (inherited, _) = read(&parent, depth + 1).with_context(|| format!("recipe '{name}' extends '{parent}'"))?;
        base = merge(base, inherited);
    }
    Ok((merge(base, value), origin))
}

fn unknown(name: &str) -> anyhow::Error {
    let known = names();
    let hint =
        nearest(name, known.iter().map(String::as_str)).map(|n| format!(", did you mean '{n}'?")).unwrap_or_default();
    anyhow!("there is no file and no built-in recipe '{name}'{hint}; built in: {}", known.join(", "))
}

/// The folder with the files of the demo, written on first use. Its name tells the content, so
/// that another version of qdrop never finds the wrong files.
pub fn demo_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("qdrop-demo-{:016x}", fingerprint()));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for (name, content) in DEMO {
        let file = folder.join(name);
        if std::fs::metadata(&file).is_ok_and(|m| m.len() == content.len() as u64) {
            continue;
        }
        let partial = folder.join(format!("{name}.{}", std::process::id()));
        std::fs::write(&partial, content).with_context(|| format!("writing {}", partial.display()))?;
        std::fs::rename(&partial, &file).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(folder)
}

/// FNV-1a over the files' contents.
fn fingerprint() -> u64 {
    let bytes = DEMO.iter().flat_map(|(_, content)| content.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
