//! `evaluate`: measures a saved result, or the float network of a recipe.

use super::{run_of, Output};
use crate::cli::arguments::EvaluateArguments;
use crate::cli::console::Console;
use crate::recipes::is_built_in;
use crate::{summary, Evaluation};
use anyhow::{bail, Result};
use serde_json::Value;

/// Prints the task's measurement.
pub fn evaluate(arguments: &EvaluateArguments, console: &Console, output: Output) -> Result<Value> {
    let target = &arguments.target;
    let dir = target.recipe.as_path();
    let saved = summary(dir)?.is_some();
    if !saved && !arguments.float {
        if is_built_in(&dir.to_string_lossy()) || dir.is_file() {
            bail!("'{}' is a recipe, nothing is quantized yet; add --float to measure its float network, or give a folder written by `quantize --out`", dir.display());
        }
        if !dir.exists() {
            bail!("'{}' is neither a folder written by `quantize --out` nor a recipe", dir.display());
        }
    }
    if saved && (target.iters.is_some() || target.weights.is_some() || !target.set.is_empty()) {
        bail!("a saved result cannot be changed: --set, --iters and --weights belong to recipes");
    }
    let evaluated = if arguments.float {
        run_of(target, console)?.evaluate_float()?
    } else {
        let mut evaluation = Evaluation::new(dir).device(&target.device).progress(console);
        if let Some(data) = &target.data {
            evaluation = evaluation.data(data);
        }
        if arguments.against_float {
            evaluation = evaluation.against_float();
        }
        evaluation.run()?
    };
    output.print(&format!("{}\n", evaluated.text))?;
    Ok(serde_json::to_value(evaluated.measured)?)
}
