//! The report of a run as one HTML file, and of several runs side by side. It loads nothing from elsewhere.

mod chart;
mod differences;
mod log;
mod one;
mod page;
mod record;
mod sections;
mod several;
mod words;

use crate::error::Result;
use crate::kept::Flatness;
use qdrop_core::progress::Progress;
use record::Record;
use std::path::Path;

/// The report of the run in the folder `dir`, as an HTML document: finished, interrupted, or of a process that still works on it. Nothing is
/// measured, so neither weights nor images are needed. A file that is damaged is left out, and the report says so.
///
/// # Errors
/// The folder holds no run, its manifest cannot be read or is damaged, or a plugin of its recipe cannot be loaded.
pub fn html_report(dir: impl AsRef<Path>, progress: &dyn Progress) -> Result<String> {
    Ok(one::page(&Record::read(dir.as_ref(), progress)?))
}

/// The reports of several runs side by side, as an HTML document: results with paired errors against the first one, losses of units,
/// times, and where their recipes differ.
///
/// # Errors
/// Those of [`html_report`].
pub fn html_comparison(dirs: &[impl AsRef<Path>], progress: &dyn Progress) -> Result<String> {
    let records = dirs.iter().map(|dir| Record::read(dir.as_ref(), progress)).collect::<Result<Vec<_>>>()?;
    several::page(&records)
}

/// The figure of the loss around quantized weights, of one run or of several by their names, as an SVG file.
pub fn flatness_figure(runs: &[(String, &Flatness)]) -> String {
    chart::sheet(&sections::flatness::charts(runs))
}
