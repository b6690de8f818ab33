//! The final table of results, as text.

use qdrop_core::pipeline::Summary;
use qdrop_core::task::{Measurement, Task};
use qdrop_core::Result;
use serde::{Deserialize, Serialize};

/// One line of the table.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the network or variant.
    pub name: String,
    /// Its bit widths.
    pub bits: String,
    /// The measurement. Files use the key `accuracy`, like earlier versions.
    #[serde(rename = "accuracy")]
    pub measured: Measurement,
    /// Time of quantization; `None` for the float network.
    pub seconds: Option<f64>,
}

/// The table as text, with the conditions of the run.
///
/// # Errors
/// Another task measured a row.
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
    if let Some(weights) = &summary.weights {
        text += &format!("{weights}\n");
    }
    if let Some(notice) = &summary.notice {
        text += &format!("note: {notice}\n");
    }
    Ok(text)
}

/// A duration as text, such as `2 min 05 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qdrop_core::params::Params;
    use qdrop_core::pipeline::Registries;
    use qdrop_core::target::TargetSpec;
    use qdrop_core::task::{Meter, Metric};

    fn summary(quantized: Measurement) -> Summary {
        Summary {
            recipe: "demo".into(),
            setting: "qdrop".into(),
            bits: "w2a4".into(),
            seed: 1005,
            reconstruction: "qdrop".into(),
            float: quantized.clone(),
            quantized,
            seconds: 8.9,
            peak_rss_bytes: 483_183_821,
            weights: None,
            notice: Some("shortened".into()),
        }
    }

    fn row(name: &str, measured: Measurement, seconds: Option<f64>) -> Row {
        Row { name: name.into(), bits: "w2a4".into(), measured, seconds }
    }

    #[test]
    fn accuracies_stand_in_columns_with_their_conditions() {
        let task = Registries::collect().unwrap().tasks.get("classification", "task").unwrap();
        let task = task.build(&Params::none("task")).unwrap();
        let float = Measurement::new(2500, [("top1", 93.28), ("top5", 99.92)]);
        let quantized = Measurement { broken: 2, ..Measurement::new(2500, [("top1", 92.68), ("top5", 100.0)]) };
        let rows = [row("float", float, None), row("nearest rounding", quantized.clone(), Some(8.9))];
        let want = "                    bits  top-1 %  top-5 %          time
float               w2a4    93.28    99.92              
nearest rounding    w2a4    92.68   100.00         8.9 s
recipe demo, setting qdrop, seed 1005, 2500 images (standard error 0.52 points), peak memory 0.45 GiB
2 images could not be read and do not count
note: shortened
";
        assert_eq!(table(&rows, &summary(quantized), &*task).unwrap(), want);
    }

    /// A task with one long title and no standard error.
    struct Distance;

    impl Task for Distance {
        fn targets(&self, _: &[&[usize]]) -> Result<TargetSpec> {
            Ok(TargetSpec::Values { count: 1 })
        }

        fn metrics(&self) -> Vec<Metric> {
            vec![Metric::number("distance", "mean distance")]
        }

        fn meter(&self) -> Result<Box<dyn Meter>> {
            Err(qdrop_core::Error::message("nothing is measured here"))
        }
    }

    #[test]
    fn another_task_has_its_own_columns() {
        let measured = Measurement::new(10, [("distance", 0.01234)]);
        let text = table(&[row("qdrop", measured.clone(), None)], &summary(measured), &Distance).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "            bits  mean distance          time");
        assert_eq!(lines[1].trim_end(), "qdrop       w2a4         0.0123");
        assert!(lines[2].contains("seed 1005, 10 images, peak memory"), "{text}");
        let accuracy = Measurement::new(10, [("top1", 50.0)]);
        let error = table(&[row("float", accuracy.clone(), None)], &summary(accuracy), &Distance).unwrap_err();
        assert_eq!(error.to_string(), "there is no 'distance' among the measured values (top1)");
    }

    #[test]
    fn rows_of_earlier_versions_are_read() {
        let text = r#"{"name": "float", "bits": "w32a32",
            "accuracy": {"top1": 93.28, "top5": 99.92, "images": 2500, "broken": 0}, "seconds": null}"#;
        let row: Row = serde_json::from_str(text).unwrap();
        assert_eq!(row.measured, Measurement::new(2500, [("top1", 93.28), ("top5", 99.92)]));
        let same: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&row).unwrap(), same);
    }
}
