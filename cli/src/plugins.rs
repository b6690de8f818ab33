//! Which plugins a command loads: those of the command line, of the environment and of the recipe.

use anyhow::{bail, Context, Result};
use qdrop_core::plugin;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Plugins of every command: files or folders, separated like those of PATH.
const VARIABLE: &str = "QDROP_PLUGIN_PATH";

/// Loads the plugins of the command line and of the environment.
pub fn load_all(of_command_line: &[PathBuf]) -> Result<()> {
    for path in of_command_line {
        load(path).context("loading --plugin")?;
    }
    let variable = std::env::var_os(VARIABLE).unwrap_or_default();
    for path in std::env::split_paths(&variable).filter(|p| !p.as_os_str().is_empty()) {
        load(&path).with_context(|| format!("loading a plugin of {VARIABLE}"))?;
    }
    Ok(())
}

/// Loads the plugins that a recipe names, and makes their paths absolute in it.
pub fn load_of_recipe(recipe: &mut Value, origin: &Path) -> Result<()> {
    let Some(Value::Sequence(plugins)) = recipe.get_mut("plugins") else { return Ok(()) };
    for plugin in plugins {
        let Some(path) = plugin.as_str() else {
            bail!("{}: plugins: a plugin is the path of a file or folder", origin.display());
        };
        let path = std::path::absolute(origin.parent().unwrap_or(Path::new("")).join(path))
            .with_context(|| format!("resolving {path}"))?;
        load(&path).with_context(|| format!("loading a plugin of {}", origin.display()))?;
        *plugin = Value::String(path.to_string_lossy().into_owned());
    }
    Ok(())
}

/// The files of the plugins that are loaded.
pub fn loaded_files() -> impl Iterator<Item = PathBuf> {
    plugin::loaded().into_iter().map(|p| p.path)
}

fn load(path: &Path) -> Result<()> {
    plugin::load(path, &mut |error| eprintln!("warning: not loaded: {error}"))?;
    Ok(())
}
