//! The final table of results, as text.

use qdrop_core::memory::gib;
use qdrop_core::pipeline::Summary;
use qdrop_core::task::{shown_metrics, Measurement, Metric, Task};
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

/// The line of the float network in the table.
pub(crate) fn float_row(measured: Measurement) -> Row {
    Row { name: "float".into(), bits: "w32a32".into(), measured, seconds: None }
}

/// The table as text, with the conditions of the run. Standard errors that are known stand in parentheses.
///
/// # Errors
/// Another task measured a row.
pub fn table(rows: &[Row], summary: &Summary, task: &dyn Task) -> Result<String> {
    let metrics = shown_metrics(task, &summary.quantized);
    let mut lines = vec![vec![String::new(), "bits".into()]];
    lines[0].extend(metrics.iter().map(Metric::heading));
    lines[0].push("time".into());
    for row in rows {
        let mut line = vec![row.name.clone(), row.bits.clone()];
        for (i, metric) in metrics.iter().enumerate() {
            // The float network is not compared with itself.
            let missing = i >= task.metrics().len() && !row.measured.values.contains_key(&metric.key);
            line.push(if missing {
                String::new()
            } else {
                cell(metric, row.measured.value(metric)?, row.measured.standard_error(metric))
            });
        }
        line.push(row.seconds.map(duration).unwrap_or_default());
        lines.push(line);
    }
    let mut text = aligned(&lines);
    let known = metrics.iter().any(|metric| summary.quantized.standard_error(metric).is_some());
    let error = if known { " (standard errors in parentheses)" } else { "" };
    let of_device = summary.peak_device_bytes.map(|bytes| format!(", of the GPU {:.2} GiB", gib(bytes)));
    text += &format!(
        "recipe {}, setting {}{}, seed {}, {} images{error}, peak memory {:.2} GiB{}\n",
        summary.recipe,
        summary.setting,
        summary.mixed.as_ref().map(|target| format!(", quant.mixed {target}")).unwrap_or_default(),
        summary.seed,
        summary.quantized.images,
        gib(summary.peak_rss_bytes),
        of_device.unwrap_or_default(),
    );
    if summary.quantized.broken > 0 {
        text += &format!("{} images could not be read and do not count\n", summary.quantized.broken);
    }
    for (name, changes) in &summary.prepared {
        text += &format!("{name}: {} parts of the float network\n", changes.len());
    }
    if let Some(weights) = &summary.weights {
        text += &format!("{weights}\n");
    }
    if let Some(notice) = &summary.notice {
        text += &format!("note: {notice}\n");
    }
    Ok(text)
}

/// A value in a table, with its standard error if it is known: `93.28 (0.50)`.
pub(crate) fn cell(metric: &Metric, value: f64, standard_error: Option<f64>) -> String {
    let digits = metric.unit.digits();
    let error = standard_error.map(|error| format!(" ({error:.digits$})")).unwrap_or_default();
    format!("{value:.digits$}{error}")
}

/// Lines of a table: the first column to the left, the others to the right, with two spaces between them. All lines have as
/// many cells as the first one.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |i: usize| lines.iter().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells =
            cells.map(|(i, (cell, width))| if i == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
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
            mixed: None,
            seed: 1005,
            reconstruction: "qdrop".into(),
            float: quantized.clone(),
            quantized,
            seconds: 8.9,
            peak_rss_bytes: 483_183_821,
            peak_device_bytes: None,
            prepared: Vec::new(),
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
        let values = [("top1", 92.68), ("top1_standard_error", 0.5209), ("top5", 100.0)];
        let mut quantized = Measurement { broken: 2, ..Measurement::new(2500, values) };
        let rows = [row("float", float.clone(), None), row("nearest rounding", quantized.clone(), Some(8.9))];
        let want = "                  bits       top-1 %  top-5 %   time
float             w2a4         93.28    99.92
nearest rounding  w2a4  92.68 (0.52)   100.00  8.9 s
recipe demo, setting qdrop, seed 1005, 2500 images (standard errors in parentheses), peak memory 0.45 GiB
2 images could not be read and do not count
note: shortened
";
        assert_eq!(table(&rows, &summary(quantized.clone()), &*task).unwrap(), want);
        let on_gpu = Summary { peak_device_bytes: Some(3 << 30), ..summary(quantized.clone()) };
        assert!(table(&rows, &on_gpu, &*task).unwrap().contains("peak memory 0.45 GiB, of the GPU 3.00 GiB\n"));
        let mixed = Summary { mixed: Some("avg 3.0 bits".into()), ..summary(quantized.clone()) };
        assert!(table(&rows, &mixed, &*task).unwrap().contains("setting qdrop, quant.mixed avg 3.0 bits, seed 1005"));

        // What was compared with the float network stands in columns of its own, which are empty for the float network.
        quantized.values.extend([
            ("kl".into(), 0.02134),
            ("kl_standard_error".into(), 0.0009),
            ("agreement".into(), 96.4),
        ]);
        let rows = [row("float", float, None), row("qdrop", quantized.clone(), Some(8.9))];
        let want = "       bits       top-1 %  top-5 %  agreement %        KL (nats)   time
float  w2a4         93.28    99.92
qdrop  w2a4  92.68 (0.52)   100.00        96.40  0.0213 (0.0009)  8.9 s
";
        let text = table(&rows, &summary(quantized), &*task).unwrap();
        assert!(text.starts_with(want), "{text}");
    }

    /// A task with one long title and no standard error.
    struct Distance;

    impl Task for Distance {
        fn targets(&self, _: &[qdrop_core::head::Output]) -> Result<TargetSpec> {
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
        assert_eq!(lines[0], "       bits  mean distance  time");
        assert_eq!(lines[1], "qdrop  w2a4         0.0123");
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
