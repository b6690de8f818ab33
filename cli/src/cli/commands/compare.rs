//! `compare`: two saved results on the same images.

use super::{path, Output};
use crate::cli::arguments::CompareArguments;
use crate::cli::console::Console;
use crate::{ComparedResult, Comparison};
use anyhow::Result;
use serde_json::Value;

/// Prints both results and how they differ.
pub fn compare(arguments: &CompareArguments, console: &Console, output: Output) -> Result<Value> {
    let mut comparison = Comparison::new(&arguments.a, &arguments.b).device(&arguments.device).progress(console);
    if let Some(data) = &arguments.data {
        comparison = comparison.data(data);
    }
    let compared = comparison.run()?;
    output.print(&compared.text)?;
    let result = |result: &ComparedResult| -> Result<Value> {
        let names = [("recipe", result.recipe.as_str()), ("bits", &result.bits)];
        let mut value = Value::from_iter(names);
        value["path"] = path(&result.path);
        value["measured"] = serde_json::to_value(&result.measured)?;
        Ok(value)
    };
    let metrics = compared.metrics.iter().map(|m| Ok((m.metric.key.clone(), serde_json::to_value(m)?)));
    let metrics = metrics.collect::<Result<Value>>()?;
    Ok(Value::from_iter([("a", result(&compared.a)?), ("b", result(&compared.b)?), ("metrics", metrics)]))
}
