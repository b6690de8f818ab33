//! `recipes`: lists, shows and converts recipes.

use super::Output;
use crate::cli::arguments::RecipesAction;
use crate::cli::console::Console;
use crate::recipes::{is_built_in, names, Loader};
use anyhow::Result;
use serde_json::Value;
use std::path::Path;

/// Runs one of the commands; the default is to list.
pub fn recipes(action: Option<RecipesAction>, console: &Console, output: Output) -> Result<Value> {
    let load = |name: &Path| Loader::new(name).progress(console).load();
    match action.unwrap_or(RecipesAction::List) {
        RecipesAction::List => {
            let mut list = Vec::new();
            for name in names() {
                let description = load(Path::new(&name))?.description.unwrap_or_default();
                output.print(&format!("{name:32} {description}\n"))?;
                list.push(Value::from_iter([("name", name), ("description", description)]));
            }
            Ok(Value::from_iter([("recipes", list)]))
        }
        RecipesAction::Show { name } | RecipesAction::Convert { file: name } => {
            let mut recipe = load(&name)?;
            // Relative paths of a copy start from the folder that the copy is in.
            recipe.base_dir.clear();
            if name.to_str().is_some_and(is_built_in) {
                recipe.folders = Default::default();
            }
            output.print(&recipe.to_yaml()?)?;
            Ok(serde_json::to_value(&recipe)?)
        }
    }
}
