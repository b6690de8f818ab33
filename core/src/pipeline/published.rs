//! Checks whether the published values of a recipe can be compared with the task's measurements.

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::task::{Comparison, Task};

/// Checks that the task can be compared with the published values of the recipe.
pub(super) fn check_published(recipe: &Recipe, task: &dyn Task) -> Result<()> {
    let Some(published) = recipe.published else { return Ok(()) };
    comparison(recipe, task, "published.float", published.float)?;
    if let Some(quantized) = published.quantized {
        comparison(recipe, task, "published.quantized", quantized)?;
    }
    Ok(())
}

/// The task's comparison with the value `published`, which is at `path` in the recipe.
pub(super) fn comparison(recipe: &Recipe, task: &dyn Task, path: &str, published: f64) -> Result<Box<dyn Comparison>> {
    match task.comparison(published) {
        Ok(Some(comparison)) => Ok(comparison),
        Ok(None) => {
            let message = format!("the task '{}' compares with no published value; remove it", recipe.task.name);
            Err(Error::setting(path, message))
        }
        Err(Error::Message(message)) => Err(Error::setting(path, message)),
        Err(other) => Err(other),
    }
}
