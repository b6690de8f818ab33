//! What a run's folder holds beside the files that the framework knows: their names, and what is in them.

mod analysis;
mod flatness;
mod output;

pub use analysis::Analysis;
pub use flatness::{Curves, Flatness};
pub(crate) use output::check_output;

use qdrop_core::recipe::Recipe;

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

/// The files with what a finished run of the recipe measured.
pub(crate) fn measured_files(recipe: &Recipe) -> impl Iterator<Item = String> {
    let own = [FLOAT_FILE, IMAGES_FILE].map(String::from).into_iter();
    own.chain((0..recipe.compare.len()).map(variant_file))
}

/// The result of variant `i`.
pub(crate) fn variant_file(i: usize) -> String {
    format!("compare-{i}.json")
}
