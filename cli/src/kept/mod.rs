//! What a run's folder holds beside the files that the framework knows: their names, and what is in them.

mod analysis;
mod flatness;
mod output;

pub use analysis::Analysis;
pub use flatness::{Curves, Flatness};
pub(crate) use output::check_output;

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

/// The result of variant `i`.
pub(crate) fn variant_file(i: usize) -> String {
    format!("compare-{i}.json")
}
