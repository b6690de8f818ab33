//! The final table.

use crate::console::duration;
use qdrop_core::pipeline::Summary;
use qdrop_core::task::{Measurement, Task};
use qdrop_core::Result;
use serde::{Deserialize, Serialize};

/// One line of the table.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Its bit widths.
    pub bits: String,
    /// What was measured; files call it by the name of the oldest task's.
    #[serde(rename = "accuracy")]
    pub measured: Measurement,
    /// Time of quantization, if any.
    pub seconds: Option<f64>,
}

/// The table as text, with the conditions that the numbers depend on.
///
/// # Errors
/// A row was not measured by the task.
pub fn table(rows: &[Row], summary: &Summary, task: &dyn Task) -> Result<String> {
    let metrics = task.metrics();
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(8);
    let columns: Vec<String> = metrics.iter().map(|m| format!("  {:>7}", m.heading())).collect();
    let mut text = format!("{:width$}  {:>6}{}  {:>12}\n", "", "bits", columns.concat(), "time");
    for row in rows {
        let time = row.seconds.map(duration).unwrap_or_default();
        text += &format!("{:width$}  {:>6}", row.name, row.bits);
        for (metric, column) in metrics.iter().zip(&columns) {
            let (width, digits) = (column.len() - 2, metric.unit.digits());
            text += &format!("  {:>width$.digits$}", row.measured.value(metric)?);
        }
        text += &format!("  {time:>12}\n");
    }
    let error = match (metrics.first(), task.standard_error(&summary.quantized)?) {
        (Some(metric), Some(error)) => format!(" (standard error {})", metric.unit.difference(error)),
        _ => String::new(),
    };
    text += &format!(
        "recipe {}, setting {}, seed {}, {} images{error}, peak memory {:.2} GiB\n",
        summary.recipe,
        summary.setting,
        summary.seed,
        summary.quantized.images,
        summary.peak_rss_bytes as f64 / f64::from(1 << 30),
    );
    if summary.quantized.broken > 0 {
        text += &format!("{} images could not be read and do not count\n", summary.quantized.broken);
    }
    if let Some(notice) = &summary.notice {
        text += &format!("note: {notice}\n");
    }
    Ok(text)
}
