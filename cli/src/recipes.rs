//! Finding a recipe: built-in ones, files, inheritance and changes from the command line.

use crate::arguments::RecipeArguments;
use anyhow::{anyhow, bail, Context, Result};
use qdrop_core::pipeline::RECIPE_FILE;
use qdrop_core::recipe::{apply_set, merge, parse_yaml, Recipe};
use qdrop_core::registry::nearest;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Built-in recipes by name. Names that begin with an underscore are only inherited from.
const BUILT_IN: &[(&str, &str)] = &[
    ("demo", include_str!("../recipes/demo.yaml")),
    ("imagenet/_mobilenet_v2", include_str!("../recipes/imagenet/_mobilenet_v2.yaml")),
    ("imagenet/mobilenet_v2_w8a8", include_str!("../recipes/imagenet/mobilenet_v2_w8a8.yaml")),
    ("imagenet/mobilenet_v2_w4a4", include_str!("../recipes/imagenet/mobilenet_v2_w4a4.yaml")),
    ("imagenet/mobilenet_v2_w2a4", include_str!("../recipes/imagenet/mobilenet_v2_w2a4.yaml")),
];

/// Files of the `demo` recipe.
const DEMO: &[(&str, &[u8])] = &[
    ("weights.safetensors", include_bytes!("../demo/weights.safetensors")),
    ("train-images-idx3-ubyte.gz", include_bytes!("../demo/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../demo/train-labels-idx1-ubyte.gz")),
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../demo/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../demo/t10k-labels-idx1-ubyte.gz")),
];

/// How deep recipes may inherit.
const MAX_DEPTH: usize = 8;

/// Names of the built-in recipes that can be run.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).filter(|name| !name.split('/').any(|p| p.starts_with('_')))
}

/// Whether a built-in recipe has this name. A file or folder of the same name does not hide it.
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(n, _)| *n == name)
}

/// The recipe of a command with all its changes.
pub fn load(arguments: &RecipeArguments) -> Result<Recipe> {
    let (mut value, origin) = read(&arguments.recipe, 0)?;
    for change in &arguments.set {
        apply_set(&mut value, change)?;
    }
    let mut recipe = Recipe::from_value(value, &origin)?;
    // Absolute, so that a saved recipe means the same from everywhere.
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("resolving {}", path.display()));
    recipe.base_dir = match recipe.base_dir.as_os_str().is_empty() {
        true => std::env::current_dir().context("finding the current folder")?,
        false => absolute(&recipe.base_dir)?,
    };
    recipe.run_iters = arguments.iters.or(recipe.run_iters);
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
    let (text, origin) = match BUILT_IN.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => (text.to_string(), demo_folder()?.join(name)),
        None if file.exists() => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading recipe {}", file.display()))?;
            // The demo's files may have been cleaned away since its result was saved.
            demo_folder()?;
            (text, file)
        }
        None => return Err(unknown(name)),
    };
    let mut value = parse_yaml(&text, &origin)?;
    let parent = value.as_mapping_mut().and_then(|m| m.remove("extends"));
    let Some(parent) = parent else { return Ok((value, origin)) };
    let parent = parent.as_str().ok_or_else(|| anyhow!("recipe '{name}': `extends` takes the name of one recipe"))?;
    let relative = origin.parent().unwrap_or(Path::new("")).join(parent);
    let parent = if relative.is_file() { relative.to_string_lossy().into_owned() } else { parent.into() };
    let (base, _) = read(&parent, depth + 1).with_context(|| format!("recipe '{name}' extends '{parent}'"))?;
    Ok((merge(base, value), origin))
}

fn unknown(name: &str) -> anyhow::Error {
    let hint = nearest(name, names()).map(|n| format!(", did you mean '{n}'?")).unwrap_or_default();
    let known: Vec<_> = names().collect();
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
