//! Loads recipes: built-in ones, those of plugins, and files, with inheritance and changes.
//!
//! ```
//! # fn main() -> qdrop::Result<()> {
//! assert!(qdrop::recipes::names().contains(&"imagenet/resnet18_w2a4".to_string()));
//! let published = qdrop::recipes::load("imagenet/resnet18_w2a4")?;
//! let three_bits = qdrop::recipes::Loader::new("imagenet/resnet18_w2a4").set("quant.weight.bits=3").load()?;
//! assert_eq!((published.bits(), three_bits.bits()), ("w2a4".into(), "w3a4".into()));
//! # Ok(())
//! # }
//! ```

mod built_in;
mod reference;

pub(crate) use built_in::demo_folder;
pub use built_in::names;

use crate::error::{At, Error, Result, Stage};
use crate::plugins;
use qdrop_core::engine::Engine;
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::recipe::{apply_set, merge, parse_yaml, Recipe};
use qdrop_core::registry::nearest;
use qdrop_core::run_directory::RECIPE_FILE;
use qdrop_core::Error as Core;
use serde_yaml::{Mapping, Value};
use std::path::{Path, PathBuf};

/// Limit of the inheritance depth of recipes.
const MAX_DEPTH: usize = 8;

/// Loads the recipe `name` without changes: see [`Loader::new`].
///
/// # Errors
/// Those of [`Loader::load`].
pub fn load(name: impl Into<PathBuf>) -> Result<Recipe> {
    Loader::new(name).load()
}

/// Whether the library, a linked crate or a loaded plugin has a recipe with this name. A file or folder of the
/// same name does not hide it.
pub fn is_built_in(name: &str) -> bool {
    built_in::text(name).is_some()
}

/// Loads a recipe with changes.
#[must_use = "`load` reads the recipe"]
pub struct Loader<'a> {
    name: PathBuf,
    set: Vec<String>,
    iters: Option<usize>,
    engine: Option<Engine>,
    weights: Option<PathBuf>,
    data: Option<PathBuf>,
    progress: &'a dyn Progress,
}

impl Loader<'_> {
    /// A loader for the recipe `name`: a built-in one or one that a plugin registers (see [`names`]), a YAML file, a
    /// folder with a saved result (then the recipe of that result), or a configuration file of the reference
    /// implementation.
    pub fn new(name: impl Into<PathBuf>) -> Self {
        let (set, progress) = (Vec::new(), &Silent);
        Self { name: name.into(), set, iters: None, engine: None, weights: None, data: None, progress }
    }

    /// Replaces a value of the recipe: `key=value`, where the key is a path such as `quant.weight.bits` and the value
    /// is YAML. Changes are applied in order.
    pub fn set(mut self, change: impl Into<String>) -> Self {
        self.set.push(change.into());
        self
    }

    /// Runs fewer iterations, with the learning rates scaled up. The result is not comparable with full runs.
    pub fn iters(mut self, iters: usize) -> Self {
        self.iters = Some(iters);
        self
    }

    /// Sets the engine that reconstructs units.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Sets the checkpoint with the float weights; the path is relative to the current folder.
    pub fn weights(mut self, file: impl Into<PathBuf>) -> Self {
        self.weights = Some(file.into());
        self
    }

    /// Sets the folder with the images; the path is relative to the current folder.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = Some(folder.into());
        self
    }
}

impl<'a> Loader<'a> {
    /// Sets the receiver of warnings about plugins in a folder that cannot be loaded.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// Reads the recipe with everything that it extends, loads its plugins and applies the changes.
    ///
    /// # Errors
    /// There is no such recipe, it or one that it extends cannot be read, a key is unknown or missing, a value has the
    /// wrong type, or a plugin cannot be loaded. Each error names the place in the recipe.
    pub fn load(&self) -> Result<Recipe> {
        let (mut value, origin) = self.read(&self.name, 0)?;
        for change in &self.set {
            apply_set(&mut value, change).at(Stage::Recipe)?;
        }
        let mut recipe = Recipe::from_value(value, &origin).at(Stage::Recipe)?;
        recipe.base_dir = match recipe.base_dir.as_os_str().is_empty() {
            true => std::env::current_dir().map_err(Core::io("find", "the current folder")).at(Stage::Recipe)?,
            false => absolute(&recipe.base_dir)?,
        };
        // A resumed run needs the same plugins.
        for path in plugins::loaded_files() {
            if !recipe.plugins.contains(&path) {
                recipe.plugins.push(path);
            }
        }
        recipe.run_iters = self.iters.or(recipe.run_iters);
        recipe.engine = self.engine.unwrap_or(recipe.engine);
        if let Some(weights) = &self.weights {
            recipe.model.weights = Some(absolute(weights)?);
        }
        if let Some(data) = &self.data {
            recipe.data_root = Some(absolute(data)?);
        }
        Ok(recipe)
    }

    /// Reads a recipe with everything that it inherits, and the file that its relative paths start from.
    fn read(&self, name: &Path, depth: usize) -> Result<(Value, PathBuf)> {
        let shown = name.display().to_string();
        let error = |message: String| Error::Recipe { name: shown.clone(), message };
        if depth > MAX_DEPTH {
            return Err(error(format!("more than {MAX_DEPTH} levels of `extends`; does it extend itself?")));
        }
        let file = if name.is_dir() { name.join(RECIPE_FILE) } else { name.into() };
        let (text, origin) = match built_in::text(&shown) {
            // All built-in recipes resolve relative paths against the folder of the demo's files.
            Some(text) => (text.to_string(), demo_folder()?.join(shown.replace('/', "-"))),
            None if file.exists() => {
                let text = std::fs::read_to_string(&file).map_err(Core::io("read", &file)).at(Stage::Recipe)?;
                // The demo's files may have been deleted since the result was saved.
                demo_folder()?;
                (text, file)
            }
            None => return Err(unknown(shown)),
        };
        let mut value = parse_yaml(&text, &origin).at(Stage::Recipe)?;
        if reference::recognizes(&value) {
            let recipe = reference::to_recipe(value, &origin);
            return Ok((
                recipe.map_err(|e| Error::Configuration { file: origin.clone(), cause: Box::new(e) })?,
                origin,
            ));
        }
        // Before the rest of the recipe, which may extend a recipe that its plugins register.
        plugins::load_of_recipe(&mut value, &origin, self.progress)?;
        let parents = match value.as_mapping_mut().and_then(|m| m.remove("extends")) {
            None => return Ok((value, origin)),
            Some(Value::Sequence(parents)) => parents,
            Some(parent) => vec![parent],
        };
        let mut base = Value::Mapping(Mapping::new());
        for parent in parents {
            let Some(parent) = parent.as_str() else {
                return Err(error("`extends` takes the name of a recipe, or a list of names".into()));
            };
            let relative = origin.parent().unwrap_or(Path::new("")).join(parent);
            let parent = if relative.is_file() { relative } else { parent.into() };
            let inherited = self.read(&parent, depth + 1);
            let (inherited, _) = inherited.map_err(|cause| Error::Extends {
                name: shown.clone(),
                parent: parent.display().to_string(),
                cause: Box::new(cause),
            })?;
            base = merge(base, inherited);
        }
        Ok((merge(base, value), origin))
    }
}

/// Makes a path independent of the current folder, as a saved recipe requires.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Core::io("resolve", path)).at(Stage::Recipe)
}

fn unknown(name: String) -> Error {
    let known = names();
    Error::UnknownRecipe { suggestion: nearest(&name, known.iter().map(String::as_str)), name, known }
}
