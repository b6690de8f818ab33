//! Wraps tasks of registry entries: panics become errors that name the task, and measurements are checked.

use super::interface::{Comparison, Drawn, Meter, Record, Task};
use super::measurement::{Measurement, Metric, MetricUnit};
use crate::error::{Error, Result};
use crate::guard::Origin;
use crate::head::Output;
use crate::picture::Picture;
use crate::target::{Target, TargetSpec};
use candle_core::Tensor;
use std::collections::BTreeSet;

/// Wraps the task of a registry entry. Its metrics are read once.
pub(super) struct GuardedTask {
    origin: Origin,
    metrics: Vec<Metric>,
    image_metrics: Vec<Metric>,
    deviation_metrics: Vec<Metric>,
    inner: Box<dyn Task>,
}

impl GuardedTask {
    pub fn new(origin: Origin, inner: Box<dyn Task>) -> Result<Self> {
        let metrics = origin.ask("metrics", || inner.metrics())?;
        let image_metrics = origin.ask("image_metrics", || inner.image_metrics())?;
        let deviation_metrics = origin.ask("deviation_metrics", || inner.deviation_metrics())?;
        if metrics.is_empty() && image_metrics.is_empty() {
            return Err(defect(origin, "names no metric"));
        }
        for metrics in [&metrics, &image_metrics, &deviation_metrics] {
            let mut keys = BTreeSet::new();
            for Metric { key, .. } in metrics {
                if Measurement::COUNTS.contains(&key.as_str()) || !keys.insert(key) {
                    return Err(defect(origin, format!("has two values called '{key}'")));
                }
            }
        }
        Ok(Self { origin, metrics, image_metrics, deviation_metrics, inner })
    }
}

/// The error of a task that breaks the rules of its interface.
fn defect(origin: Origin, what: impl std::fmt::Display) -> Error {
    let Origin { plugin, kind, name } = origin;
    Error::message(format!("plugin '{plugin}': its {kind} '{name}' {what}"))
}

/// The error of a value that JSON cannot hold, and that cannot be compared.
fn not_finite(origin: Origin, key: &str, value: f64) -> Error {
    defect(origin, format!("measured {value} as '{key}'; are the network's outputs finite?"))
}

impl Task for GuardedTask {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        self.origin.call("targets", || self.inner.targets(outputs))
    }

    fn metrics(&self) -> Vec<Metric> {
        self.metrics.clone()
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        let inner = self.origin.call("meter", || self.inner.meter())?;
        Ok(Box::new(GuardedMeter { origin: self.origin, metrics: self.metrics.clone(), inner }))
    }

    fn image_metrics(&self) -> Vec<Metric> {
        self.image_metrics.clone()
    }

    fn image_values(&self, outputs: &[Tensor], float: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        let rows = self.origin.call("image_values", || self.inner.image_values(outputs, float, targets))?;
        let wanted = self.image_metrics.len();
        if rows.len() != targets.len() || rows.iter().any(|row| row.len() != wanted) {
            let what = format!("must measure {wanted} values of each of {} images, and did not", targets.len());
            return Err(defect(self.origin, what));
        }
        for (metric, value) in rows.iter().flat_map(|row| self.image_metrics.iter().zip(row)) {
            if !value.is_finite() {
                return Err(not_finite(self.origin, &metric.key, *value));
            }
            if metric.unit == MetricUnit::Percent && ![0.0, 100.0].contains(value) {
                let what = format!("measured {value} as '{}' of one image, which must be 0 or 100", metric.key);
                return Err(defect(self.origin, what));
            }
        }
        Ok(rows)
    }

    fn deviation_metrics(&self) -> Vec<Metric> {
        self.deviation_metrics.clone()
    }

    fn deviations(&self, outputs: &[Tensor], float: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        let rows = self.origin.call("deviations", || self.inner.deviations(outputs, float))?;
        let metrics = &self.deviation_metrics;
        if rows.iter().any(|row| row.len() != metrics.len()) {
            return Err(defect(
                self.origin,
                format!("must measure {} deviations of each image, and did not", metrics.len()),
            ));
        }
        for (metric, value) in rows.iter().flat_map(|row| metrics.iter().zip(row)) {
            if !value.is_finite() {
                return Err(not_finite(self.origin, &metric.key, *value));
            }
        }
        Ok(rows)
    }

    fn record(&self, categories: &[(u64, String)]) -> Result<Option<Box<dyn Record>>> {
        let inner = self.origin.call("record", || self.inner.record(categories))?;
        Ok(inner.map(|inner| Box::new(GuardedRecord { origin: self.origin, inner }) as Box<dyn Record>))
    }

    fn draw(
        &self,
        picture: &Picture,
        target: &Target,
        networks: &[Drawn<'_>],
        categories: &[(u64, String)],
    ) -> Result<Option<Picture>> {
        let drawn = self.origin.call("draw", || self.inner.draw(picture, target, networks, categories))?;
        match drawn {
            Some(Picture { width, height, pixels, .. }) if pixels.len() != 3 * width * height => {
                let what = format!("drew {} values for {width} x {height} pixels", pixels.len());
                Err(defect(self.origin, what))
            }
            drawn => Ok(drawn),
        }
    }

    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        let inner = self.origin.call("comparison", || self.inner.comparison(published))?;
        Ok(inner.map(|inner| Box::new(GuardedComparison { origin: self.origin, inner }) as Box<dyn Comparison>))
    }
}

struct GuardedMeter {
    origin: Origin,
    metrics: Vec<Metric>,
    inner: Box<dyn Meter>,
}

impl Meter for GuardedMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        self.origin.call("update", || self.inner.update(outputs, targets))
    }

    fn compute(&self) -> Result<Measurement> {
        let measurement = self.origin.call("compute", || self.inner.compute())?;
        if let Some(metric) = self.metrics.iter().find(|m| !measurement.values.contains_key(&m.key)) {
            return Err(defect(self.origin, format!("measured no '{}'", metric.key)));
        }
        if let Some((key, value)) = measurement.values.iter().find(|(_, v)| !v.is_finite()) {
            return Err(not_finite(self.origin, key, *value));
        }
        Ok(measurement)
    }
}

struct GuardedRecord {
    origin: Origin,
    inner: Box<dyn Record>,
}

impl Record for GuardedRecord {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        self.origin.call("update", || self.inner.update(outputs, targets))
    }

    fn finish(&self) -> Result<String> {
        self.origin.call("finish", || self.inner.finish())
    }
}

struct GuardedComparison {
    origin: Origin,
    inner: Box<dyn Comparison>,
}

impl Comparison for GuardedComparison {
    fn observe(&mut self, images: &Tensor, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        self.origin.call("observe", || self.inner.observe(images, outputs, targets))
    }

    fn problem(&self, measured: &Measurement) -> Result<Option<String>> {
        self.origin.call("problem", || self.inner.problem(measured))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Params;
    use crate::registry::Entry;
    use crate::task::TaskKind;

    /// Returns the given values as its measurement.
    struct Given(Vec<Metric>, Vec<(&'static str, f64)>);

    impl Task for Given {
        fn targets(&self, _: &[Output]) -> Result<TargetSpec> {
            Ok(TargetSpec::Values { count: 1 })
        }

        fn metrics(&self) -> Vec<Metric> {
            self.0.clone()
        }

        fn meter(&self) -> Result<Box<dyn Meter>> {
            Ok(Box::new(GivenMeter(self.1.clone())))
        }

        /// The same metrics for single images.
        fn image_metrics(&self) -> Vec<Metric> {
            self.0.clone()
        }

        fn image_values(&self, _: &[Tensor], _: &[Tensor], _: &[Target]) -> Result<Vec<Vec<f64>>> {
            Ok(vec![self.1.iter().map(|(_, value)| *value).collect()])
        }
    }

    struct GivenMeter(Vec<(&'static str, f64)>);

    impl Meter for GivenMeter {
        fn update(&mut self, _: &[Tensor], _: &[Target]) -> Result<()> {
            panic!("boom")
        }

        fn compute(&self) -> Result<Measurement> {
            Ok(Measurement::new(1, self.0.clone()))
        }
    }

    fn build(constructor: fn(&Params) -> Result<Box<dyn Task>>) -> Result<Box<dyn Task>> {
        let constructor = TaskKind::new(constructor);
        let entry = Entry { name: "given", aliases: &[], summary: "", defined_in: "tests", record: &[], constructor };
        Box::leak(Box::new(entry)).build(&Params::none("task"))
    }

    #[test]
    fn defects_of_a_task_name_it() {
        let built = |f: fn(&Params) -> Result<Box<dyn Task>>| build(f).err().map(|e| e.to_string()).unwrap_or_default();
        let error = built(|_| Ok(Box::new(Given(Vec::new(), Vec::new()))));
        assert_eq!(error, "plugin 'tests': its task 'given' names no metric");
        let error =
            built(|_| Ok(Box::new(Given(vec![Metric::number("a", "A"), Metric::number("a", "B")], Vec::new()))));
        assert_eq!(error, "plugin 'tests': its task 'given' has two values called 'a'");
        let error = built(|_| Ok(Box::new(Given(vec![Metric::number("images", "I")], Vec::new()))));
        assert_eq!(error, "plugin 'tests': its task 'given' has two values called 'images'");

        let task = build(|_| Ok(Box::new(Given(vec![Metric::number("a", "A")], vec![("b", 1.0)])))).unwrap();
        let mut meter = task.meter().unwrap();
        assert_eq!(meter.compute().unwrap_err().to_string(), "plugin 'tests': its task 'given' measured no 'a'");
        let error = meter.update(&[], &[]).unwrap_err().to_string();
        assert!(error.contains("its task 'given' panicked in `update`: boom"), "{error}");
        let task = build(|_| Ok(Box::new(Given(vec![Metric::number("a", "A")], vec![("a", f64::NAN)])))).unwrap();
        let error = task.meter().unwrap().compute().unwrap_err().to_string();
        assert!(error.contains("'given' measured NaN as 'a'"), "{error}");
        let image = |task: &dyn Task| task.image_values(&[], &[], &[Target::Unknown]).map_err(|e| e.to_string());
        assert!(image(&*task).unwrap_err().contains("'given' measured NaN as 'a'"));

        let task = build(|_| Ok(Box::new(Given(vec![Metric::percent("a", "A")], vec![("a", 100.0)])))).unwrap();
        assert_eq!(image(&*task).unwrap(), [[100.0]]);
        let error = task.image_values(&[], &[], &[Target::Unknown, Target::Unknown]).unwrap_err().to_string();
        let want = "plugin 'tests': its task 'given' must measure 1 values of each of 2 images, and did not";
        assert_eq!(error, want);
        let task = build(|_| Ok(Box::new(Given(vec![Metric::percent("a", "A")], vec![("a", 50.0)])))).unwrap();
        assert!(image(&*task).unwrap_err().ends_with("measured 50 as 'a' of one image, which must be 0 or 100"));
    }
}
