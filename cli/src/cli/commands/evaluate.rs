//! `evaluate`: measures a saved result, or the float network of a recipe.

use super::{run_of, Output};
use crate::cli::arguments::EvaluateArguments;
use crate::cli::console::Console;
use crate::recipes::is_built_in;
use crate::{is_saved, Evaluation, Extras};
use anyhow::{bail, Result};
use serde_json::Value;

/// Prints the task's measurement.
pub fn evaluate(arguments: &EvaluateArguments, console: &Console, output: Output) -> Result<Value> {
    let target = &arguments.target;
    let path = target.recipe.as_path();
    let saved = is_saved(path)?;
    if !saved && !arguments.float {
        if is_built_in(&path.to_string_lossy()) || path.is_file() {
            bail!("'{}' is a recipe, nothing is quantized yet; add --float to measure its float network, or give a saved result: a folder written by `quantize --out`, or a packed file", path.display());
        }
        if !path.exists() {
            bail!(
                "'{}' is neither a saved result (a folder written by `quantize --out`, or a packed file) nor a recipe",
                path.display()
            );
        }
    }
    if saved && (target.iters.is_some() || target.weights.is_some() || !target.set.is_empty()) {
        bail!("a saved result cannot be changed: --set, --iters and --weights belong to recipes");
    }
    let EvaluateArguments { detections, draw, drawn, .. } = arguments;
    let extras = Extras { detections: detections.clone(), draw: draw.clone(), drawn: *drawn };
    let evaluated = if arguments.float {
        run_of(target, console)?.evaluate_float(&extras)?
    } else {
        let mut evaluation = Evaluation::new(path).device(&target.device).extras(extras).progress(console);
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
