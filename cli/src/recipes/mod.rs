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
mod network;
mod reference;

pub use built_in::names;
pub(crate) use built_in::restore_demos;

use crate::error::{At, Error, Result, Stage};
use crate::plugins;
use qdrop_core::engine::Engine;
use qdrop_core::packed::Packed;
use qdrop_core::params::parse_value;
use qdrop_core::progress::{Progress, Silent};
use qdrop_core::recipe::{apply_set, merge, parse_yaml, read_yaml, write_out, Folders, Recipe, RecipePath};
use qdrop_core::registry::nearest;
use qdrop_core::run_directory::{Manifest, MANIFEST_FILE, RECIPE_FILE};
use qdrop_core::Error as Core;
use serde::de::DeserializeOwned;
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
    bits: Option<String>,
    preset: Option<String>,
    set: Vec<String>,
    iters: Option<usize>,
    engine: Option<Engine>,
    weights: Option<PathBuf>,
    data: Option<PathBuf>,
    progress: &'a dyn Progress,
}

impl Loader<'_> {
    /// A loader for the recipe `name`: a built-in one or one that a plugin registers (see [`names`]), a YAML file, a
    /// saved result (then the recipe of that result), which is a folder or a packed file, a configuration file of the
    /// reference implementation, or a network as `.onnx` file, for which the [bits](Self::bits) and the
    /// [preset](Self::preset) make a recipe.
    pub fn new(name: impl Into<PathBuf>) -> Self {
        let (set, progress) = (Vec::new(), &Silent);
        let (bits, preset, iters, engine, weights, data) = Default::default();
        Self { name: name.into(), bits, preset, set, iters, engine, weights, data, progress }
    }

    /// A loader for the recipe of the saved result at `path`, also where a built-in recipe has the same name.
    pub(crate) fn of_saved(path: &Path) -> Self {
        match is_built_in(&path.to_string_lossy()) {
            true => Self::new(Path::new(".").join(path)),
            false => Self::new(path),
        }
    }

    /// Sets the bits of weights and activations: `w4a4`, which is also the default of a network without a recipe, `w2a4` and so
    /// on.
    pub fn bits(mut self, bits: impl Into<String>) -> Self {
        self.bits = Some(bits.into());
        self
    }

    /// Sets what a network without a recipe is quantized with: `fast`, the default, has what was found to help in minutes;
    /// `published` is QDrop as it was published, which takes hours.
    pub fn preset(mut self, preset: impl Into<String>) -> Self {
        self.preset = Some(preset.into());
        self
    }

    /// Replaces a value of the recipe: `key=value`, where the key is a path such as `quant.weight.bits` and the value
    /// is YAML. Changes are applied in order. Relative paths start from the recipe's folder; a built-in recipe has none,
    /// and they start from the current folder.
    pub fn set(mut self, change: impl Into<String>) -> Self {
        self.set.push(change.into());
        self
    }

    /// Runs another number of iterations, with learning rates to match. With published recipes, the result is not comparable with
    /// full runs.
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
        let network = network::recognizes(&self.name) && self.name.is_file();
        let mut file = match network {
            true => {
                let value = network::recipe(&self.name, self.bits.as_deref(), self.preset.as_deref())?;
                let name = self.name.display().to_string();
                self.inherit(File::new(value, name, None)?, 0)?
            }
            false => self.read(&self.name, 0)?,
        };
        if !network {
            self.change_bits(&mut file.value)?;
        }
        let File { mut value, name, base_dir, mut folders } = file;
        for change in &self.set {
            let key = change.split('=').next().unwrap_or_default().trim();
            if key.split('.').next() == Some("plugins") {
                let message = "the recipe's plugins are loaded before it is changed; load others with `--plugin PATH`";
                return Err(Core::setting(key, message)).at(Stage::Recipe);
            }
            apply_set(&mut value, change).at(Stage::Recipe)?;
            folders.forget(key);
        }
        if let (Some(iters), Value::Mapping(map)) = (self.iters, &mut value) {
            map.insert("run_iters".into(), (iters as u64).into());
        }
        let mut base_dir = match base_dir {
            Some(folder) => folder,
            None => std::env::current_dir().map_err(Core::io("find", "the current folder")).at(Stage::Recipe)?,
        };
        if let Some(RecipePath(changed)) = parse_optional(value.get("base_dir").cloned(), "base_dir", &name)? {
            base_dir = base_dir.join(changed);
        }
        let folders = folders.others_than(&base_dir);
        let recipe = Recipe::from_value(value, Path::new(&name)).at(Stage::Recipe)?;
        let mut recipe = recipe.in_folders(base_dir, folders);
        // A resumed run needs the same plugins.
        for path in plugins::loaded_files() {
            if !recipe.plugins.contains(&path) {
                recipe.plugins.push(path);
            }
        }
        recipe.engine = self.engine.unwrap_or(recipe.engine);
        if let Some(weights) = &self.weights {
            recipe.model.weights = Some(absolute(weights)?);
        }
        if let Some(data) = &self.data {
            recipe.data_root = Some(absolute(data)?);
        }
        Ok(recipe)
    }

    /// Gives a recipe other bits.
    fn change_bits(&self, value: &mut Value) -> Result<()> {
        if self.preset.is_some() {
            let message = "a preset is for a network without a recipe; a recipe says itself what it does";
            return Err(Core::setting("--preset", message)).at(Stage::Recipe);
        }
        let Some(text) = &self.bits else { return Ok(()) };
        let [weights, activations] = network::bits(text)?;
        apply_set(value, &format!("quant.weight.bits={weights}")).at(Stage::Recipe)?;
        apply_set(value, &format!("quant.activation.bits={activations}")).at(Stage::Recipe)
    }

    /// Reads a recipe with everything that it inherits.
    fn read(&self, name: &Path, depth: usize) -> Result<File> {
        let shown = name.display().to_string();
        let error = |message: String| Error::Recipe { name: shown.clone(), message };
        if depth > MAX_DEPTH {
            return Err(error(format!("more than {MAX_DEPTH} levels of `extends`; does it extend itself?")));
        }
        let file = match built_in::text(&shown) {
            Some(text) => {
                let value = parse_yaml(text, name).at(Stage::Recipe)?;
                // No other recipe that is not a file has paths.
                let folder = built_in::demo_folder(&shown)?;
                File { base_dir: None, ..File::new(value, shown.clone(), folder)? }
            }
            None => self.read_file(name)?,
        };
        self.inherit(file, depth)
    }

    /// Lays a recipe over what it extends.
    fn inherit(&self, mut file: File, depth: usize) -> Result<File> {
        let shown = file.name.clone();
        let error = |message: String| Error::Recipe { name: shown.clone(), message };
        let parents = match file.value.as_mapping_mut().and_then(|m| m.shift_remove("extends")) {
            None => return Ok(file),
            Some(Value::Sequence(parents)) => parents,
            Some(parent) => vec![parent],
        };
        let mut base = File { value: Value::Mapping(Mapping::new()), folders: Folders::default(), ..file.clone() };
        for parent in parents {
            let Some(parent) = parent.as_str() else {
                return Err(error("`extends` takes the name of a recipe, or a list of names".into()));
            };
            let inherited = self.read(&file.beside(parent), depth + 1);
            let inherited = inherited.map_err(|cause| Error::Extends {
                name: shown.clone(),
                parent: parent.into(),
                cause: Box::new(cause),
            })?;
            base = base.overlaid(inherited);
        }
        Ok(base.overlaid(file))
    }

    /// Reads the file of a recipe, the one of a saved result, or a configuration file of the reference
    /// implementation, and loads its plugins.
    fn read_file(&self, name: &Path) -> Result<File> {
        let path = if name.is_dir() { name.join(RECIPE_FILE) } else { name.into() };
        if !path.exists() && name.join(MANIFEST_FILE).is_file() {
            let message = format!("is missing; `qdrop resume {}` writes it again", name.display());
            return Err(Core::data(&path, message)).at(Stage::Recipe);
        }
        if !path.exists() {
            return Err(unknown(name.display().to_string()));
        }
        let mut value = match Packed::recognizes(&path).at(Stage::SavedResult)? {
            true => parse_yaml(&Packed::recipe(&path).at(Stage::SavedResult)?, &path).at(Stage::Recipe)?,
            false => read_yaml(&path).at(Stage::Recipe)?,
        };
        // A demo's files may have been deleted since the result was saved.
        restore_demos(&value)?;
        if reference::recognizes(&value) {
            let recipe = reference::to_recipe(value, &path);
            value = recipe.map_err(|e| Error::Configuration { file: path.clone(), cause: Box::new(e) })?;
        } else {
            // Before the rest of the recipe, which may extend a recipe that its plugins register.
            plugins::load_of_recipe(&mut value, &path, self.progress)?;
        }
        let folder = absolute(&path)?.parent().map(Path::to_path_buf);
        File::new(value, path.display().to_string(), folder)
    }
}

/// A recipe's content, with everything that it inherits.
#[derive(Clone)]
struct File {
    value: Value,
    /// The file or the name of a built-in recipe, for messages.
    name: String,
    /// Where relative paths of the recipe start from: nowhere for a recipe that is not a file.
    base_dir: Option<PathBuf>,
    /// Where the paths of its texts start from.
    folders: Folders,
}

impl File {
    /// What stands in the file itself, which is in `folder`.
    fn new(mut value: Value, name: String, folder: Option<PathBuf>) -> Result<Self> {
        write_out(&mut value);
        let (mut base_dir, mut folders) = (folder, Folders::default());
        if let Value::Mapping(map) = &mut value {
            let saved = parse_optional(map.shift_remove("folders"), "folders", &name)?;
            let given = parse_optional::<RecipePath<'_>>(map.shift_remove("base_dir"), "base_dir", &name)?;
            if let Some(RecipePath(given)) = given {
                base_dir = Some(base_dir.unwrap_or_default().join(given));
            }
            folders = base_dir.as_ref().map(|folder| Folders::of_file(&value, folder)).unwrap_or_default();
            folders.overlay(&Value::Null, saved.unwrap_or_default());
        }
        Ok(Self { value, name, base_dir, folders })
    }

    /// The recipe that is called `name` in this one: a file beside it, or a built-in recipe.
    fn beside(&self, name: &str) -> PathBuf {
        let file = self.base_dir.as_ref().map(|folder| folder.join(name));
        file.filter(|file| file.is_file() || file.join(RECIPE_FILE).is_file()).unwrap_or_else(|| name.into())
    }

    /// This recipe with `over` laid over it.
    fn overlaid(self, over: Self) -> Self {
        let mut folders = self.folders;
        folders.overlay(&over.value, over.folders);
        let value = merge(self.value, over.value);
        Self { folders: folders.only_of(&value), value, ..over }
    }
}

/// Parses a value that need not be there.
fn parse_optional<T: DeserializeOwned>(value: Option<Value>, key: &str, name: &str) -> Result<Option<T>> {
    let parsed = value.filter(|v| !v.is_null()).map(|value| parse_value(value, key)).transpose();
    parsed.map_err(|e| Core::data(name, e)).at(Stage::Recipe)
}

/// Makes a path independent of the current folder, as a saved recipe requires.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Core::io("resolve", path)).at(Stage::Recipe)
}

/// The recipe of the run in the folder `dir` as its manifest says it, with its plugins loaded.
pub(crate) fn of_manifest(dir: &Path, manifest: &Manifest, progress: &dyn Progress) -> Result<Recipe> {
    // The recipe's paths are absolute, so the file's name is only for messages.
    let file = dir.join(RECIPE_FILE);
    let mut value = parse_yaml(&manifest.recipe, &file).at(Stage::Recipe)?;
    plugins::load_of_recipe(&mut value, &file, progress)?;
    let recipe = Recipe::from_yaml(&manifest.recipe, &file).at(Stage::Recipe)?;
    // A demo's files may have been deleted in the meantime.
    restore_demos(&value)?;
    Ok(recipe)
}

fn unknown(name: String) -> Error {
    let known = names();
    Error::UnknownRecipe { suggestion: nearest(&name, known.iter().map(String::as_str)), name, known }
}
