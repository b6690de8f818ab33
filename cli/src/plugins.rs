//! Loads plugins. Only a program that is linked to the framework's shared library (that of the distribution) can;
//! any other returns an error that says what to do instead.

use crate::error::{At, Error, Result, Stage};
use qdrop_core::plugin;
use qdrop_core::progress::{Event, Progress};
use qdrop_core::recipe::RecipePath;
use qdrop_core::Error as Core;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Environment variable with plugins for every command: files or folders, separated as in PATH.
pub const VARIABLE: &str = "QDROP_PLUGIN_PATH";

/// Loads the plugin in a file, or all plugins in a folder. If a plugin in a folder cannot be loaded, `progress` gets a
/// warning and the others are still loaded.
///
/// # Errors
/// The plugin in the file does not fit this program, or this program cannot load plugins.
pub fn load(path: &Path, progress: &dyn Progress) -> Result<()> {
    let mut refused = |error| progress.event(Event::Warning(format!("not loaded: {error}")));
    plugin::load(path, &mut refused).at(Stage::Plugins)?;
    Ok(())
}

/// Loads the plugins in the environment variable `QDROP_PLUGIN_PATH`.
///
/// # Errors
/// Those of [`load`].
pub fn load_from_environment(progress: &dyn Progress) -> Result<()> {
    let variable = std::env::var_os(VARIABLE).unwrap_or_default();
    std::env::split_paths(&variable).filter(|p| !p.as_os_str().is_empty()).try_for_each(|path| load(&path, progress))
}

/// Loads the plugins that a recipe names, and makes their paths absolute in it.
pub(crate) fn load_of_recipe(recipe: &mut Value, origin: &Path, progress: &dyn Progress) -> Result<()> {
    let Some(Value::Sequence(plugins)) = recipe.get_mut("plugins") else { return Ok(()) };
    for plugin in plugins {
        let Ok(RecipePath(path)) = serde_yaml::from_value(plugin.clone()) else {
            let message = "plugins: a plugin is the path of a file or folder".into();
            return Err(Error::Recipe { name: origin.display().to_string(), message });
        };
        let path = origin.parent().unwrap_or(Path::new("")).join(path);
        let path = std::path::absolute(&path).map_err(Core::io("resolve", &path)).at(Stage::Plugins)?;
        load(&path, progress)?;
        *plugin = serde_yaml::to_value(RecipePath(path.into())).map_err(Core::message).at(Stage::Plugins)?;
    }
    Ok(())
}

/// The files of all loaded plugins.
pub(crate) fn loaded_files() -> impl Iterator<Item = PathBuf> {
    plugin::loaded().into_iter().map(|p| p.path)
}
