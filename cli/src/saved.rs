//! The report of a saved result, without measuring anything.

use crate::error::{At, Result, Stage};
use crate::kept::variant_file;
use crate::report::{float_row, table, Row};
use crate::Evaluation;
use qdrop_core::pipeline::Summary;
use qdrop_core::Error as Core;
use std::path::Path;

/// The report of a saved result.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SavedReport {
    /// The table that the run ended with.
    pub table: String,
    /// The measurements and the conditions of the run.
    pub summary: Summary,
}

/// The report of the finished run in the folder `dir`, or of a packed file, which does not know the recipe's variants. The
/// network is loaded, so that damage is noticed.
///
/// # Errors
/// There is no saved result or a damaged one, it has no measurements, or a plugin of its recipe cannot be loaded.
pub fn saved_report(dir: impl AsRef<Path>) -> Result<SavedReport> {
    let dir = dir.as_ref();
    let (recipe, registries, saved) = Evaluation::new(dir).open()?;
    let none = || Core::data(dir, "holds a network without measurements; `qdrop evaluate` measures it");
    let summary = saved.summary.ok_or_else(none).at(Stage::SavedResult)?;
    let compared = if dir.is_file() { &[][..] } else { &recipe.compare };
    let variants = compared.iter().enumerate().map(|(i, _)| {
        let file = dir.join(variant_file(i));
        let text = std::fs::read_to_string(&file).map_err(Core::io("read", &file))?;
        serde_json::from_str::<Row>(&text).map_err(|e| Core::data(&file, format!("is damaged: {e}")))
    });
    let variants: Vec<Row> = variants.collect::<qdrop_core::Result<_>>().at(Stage::SavedResult)?;
    let (name, bits) = (summary.reconstruction.clone(), summary.bits.clone());
    let own = Row { name, bits, measured: summary.quantized.clone(), seconds: Some(summary.seconds) };
    let rows: Vec<Row> = std::iter::once(float_row(summary.float.clone())).chain(variants).chain([own]).collect();
    let task = registries.task_of(&recipe).at(Stage::Setup)?;
    let table = table(&rows, &summary, &*task).at(Stage::SavedResult)?;
    Ok(SavedReport { table, summary })
}
