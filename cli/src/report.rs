//! The final table as text.

use qdrop_core::pipeline::{Accuracy, Summary};
use serde::{Deserialize, Serialize};

/// One line of the table.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Its bit widths.
    pub bits: String,
    /// Its accuracy.
    pub accuracy: Accuracy,
    /// Time of quantization, if any.
    pub seconds: Option<f64>,
}

/// The table as text, with the conditions that the numbers depend on.
pub fn table(rows: &[Row], summary: &Summary) -> String {
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(8);
    let mut text = format!("{:width$}  {:>6}  {:>7}  {:>7}  {:>12}\n", "", "bits", "top-1 %", "top-5 %", "time");
    for row in rows {
        let time = row.seconds.map(duration).unwrap_or_default();
        text += &format!(
            "{:width$}  {:>6}  {:>7.2}  {:>7.2}  {time:>12}\n",
            row.name, row.bits, row.accuracy.top1, row.accuracy.top5
        );
    }
    let images = summary.quantized.images;
    let share = summary.quantized.top1 / 100.0;
    let error = 100.0 * (share * (1.0 - share) / images.max(1) as f64).sqrt();
    text += &format!(
        "recipe {}, setting {}, seed {}, {images} images (standard error {error:.2} points), peak memory {:.2} GiB\n",
        summary.recipe,
        summary.setting,
        summary.seed,
        summary.peak_rss_bytes as f64 / f64::from(1 << 30),
    );
    if summary.quantized.broken > 0 {
        text += &format!("{} images could not be read and do not count\n", summary.quantized.broken);
    }
    if let Some(notice) = &summary.notice {
        text += &format!("note: {notice}\n");
    }
    text
}

/// Seconds in words, such as `2 min 05 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}
