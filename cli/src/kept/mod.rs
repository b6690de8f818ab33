//! What a run's folder holds beside the files that the framework knows: their names, and what is in them.

mod analysis;
mod flatness;
mod output;

pub use analysis::Analysis;
pub use flatness::{Curves, Flatness};
pub(crate) use output::check_output;

use crate::error::{At, Result, Stage};
use qdrop_core::recipe::Recipe;
use qdrop_core::run_directory::read_json;
use qdrop_core::Error as Core;
use std::path::Path;

/// The result of the float evaluation.
pub(crate) const FLOAT_FILE: &str = "float.json";
/// What single layers lose.
pub(crate) const SENSITIVITY_FILE: &str = "sensitivity.json";
/// What quantization did at each site, of a run without units.
pub(crate) const SITES_FILE: &str = "sites.json";
/// What was measured on single images.
pub(crate) const IMAGES_FILE: &str = "images.json";
/// The report as an HTML document.
pub const REPORT_FILE: &str = "report.html";

/// Checks that the folder of a finished run still has all measurements of the recipe.
///
/// # Errors
/// A file is missing or damaged.
pub(crate) fn check_kept(dir: &Path, recipe: &Recipe) -> Result<()> {
    let measured = [FLOAT_FILE.to_string(), IMAGES_FILE.to_string()];
    let variants = (0..recipe.compare.len()).map(variant_file);
    for file in measured.into_iter().chain(variants).map(|name| dir.join(name)) {
        let content = read_json::<serde_json::Value>(&file).at(Stage::SavedResult)?;
        content.ok_or_else(|| Core::data(&file, "is missing")).at(Stage::SavedResult)?;
    }
    Ok(())
}

/// The result of variant `i`.
pub(crate) fn variant_file(i: usize) -> String {
    format!("compare-{i}.json")
}
