//! Loading plugins. A program that is not linked to the framework's shared library (all but the distribution's)
//! refuses every one of them, with an error that says what to do instead.

use crate::error::{At, Error, Result, Stage};
use qdrop_core::plugin;
use qdrop_core::progress::{Event, Progress};
use qdrop_core::Error as Core;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Plugins of every command: files or folders, separated like those of PATH.
pub const VARIABLE: &str = "QDROP_PLUGIN_PATH";

/// Loads the plugin in a file, or those of a folder. Those of a folder that do not fit are told to `progress`, and the
/// others loaded.
///
/// # Errors
/// The plugin in the file does not fit, or this program cannot load plugins.
pub fn load(path: &Path, progress: &dyn Progress) -> Result<()> {
    let mut refused = |error| progress.event(Event::Warning(format!("not loaded: {error}")));
    plugin::load(path, &mut refused).at(Stage::Plugins)?;
    Ok(())
}

/// Loads the plugins that the environment variable `QDROP_PLUGIN_PATH` names.
///
/// # Errors
/// As [`load`].
pub fn load_from_environment(progress: &dyn Progress) -> Result<()> {
    let variable = std::env::var_os(VARIABLE).unwrap_or_default();
    std::env::split_paths(&variable).filter(|p| !p.as_os_str().is_empty()).try_for_each(|path| load(&path, progress))
}

/// Loads the plugins that a recipe names, and makes their paths absolute in it.
pub(crate) fn load_of_recipe(recipe: &mut Value, origin: &Path, progress: &dyn Progress) -> Result<()> {
    let Some(Value::Sequence(plugins)) = recipe.get_mut("plugins") else { return Ok(()) };
    for plugin in plugins {
        let Some(path) = plugin.as_str() else {
            let message = "plugins: a plugin is the path of a file or folder".into();
            return Err(Error::Recipe { name: origin.display().to_string(), message });
        };
        let path = origin.parent().unwrap_or(Path::new("")).join(path);
        let path = std::path::absolute(&path).map_err(Core::io("resolve", &path)).at(Stage::Plugins)?;
        load(&path, progress)?;
        *plugin = Value::String(path.to_string_lossy().into_owned());
    }
    Ok(())
}

/// The files of the plugins that are loaded.
pub(crate) fn loaded_files() -> impl Iterator<Item = PathBuf> {
    plugin::loaded().into_iter().map(|p| p.path)
}
