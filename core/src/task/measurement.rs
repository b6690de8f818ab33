//! Metrics and measurements.

use crate::error::{Error, Result};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The unit of a metric's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MetricUnit {
    /// Percent, from 0 to 100.
    Percent,
    /// No unit, or one that the title includes.
    Number,
}

impl MetricUnit {
    /// Digits after the decimal point in reports.
    pub fn digits(self) -> usize {
        match self {
            Self::Percent => 2,
            Self::Number => 4,
        }
    }

    /// A value with its unit, such as `93.28 %`.
    pub fn text(self, value: f64, digits: usize) -> String {
        match self {
            Self::Percent => format!("{value:.digits$} %"),
            Self::Number => format!("{value:.digits$}"),
        }
    }
}

/// One quantity that a task measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Key in files and in JSON, such as `top1`.
    pub key: String,
    /// Title in tables, such as `top-1`.
    pub title: String,
    /// Unit of its values.
    pub unit: MetricUnit,
}

impl Metric {
    /// A metric in percent.
    pub fn percent(key: impl Into<String>, title: impl Into<String>) -> Self {
        Self { key: key.into(), title: title.into(), unit: MetricUnit::Percent }
    }

    /// A metric without a unit.
    pub fn number(key: impl Into<String>, title: impl Into<String>) -> Self {
        Self { key: key.into(), title: title.into(), unit: MetricUnit::Number }
    }

    /// Key of the standard error of its value, such as `top1_standard_error`.
    pub fn standard_error_key(&self) -> String {
        format!("{}_standard_error", self.key)
    }

    /// Heading of its column in a table, such as `top-1 %`.
    pub fn heading(&self) -> String {
        match self.unit {
            MetricUnit::Percent => format!("{} %", self.title),
            MetricUnit::Number => self.title.clone(),
        }
    }
}

/// The values that a task measured on some images.
///
/// Its JSON is one mapping: the values under the keys of their metrics, `images` and `broken`.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Values by the keys of their metrics, and standard errors by [`Metric::standard_error_key`]. Values beyond these
    /// are saved in files, but not shown.
    pub values: BTreeMap<String, f64>,
    /// Number of images.
    pub images: usize,
    /// Number of images that could not be read; they are not part of the measurement.
    pub broken: usize,
}

impl Measurement {
    /// Keys of the JSON that are not metrics.
    pub(super) const COUNTS: [&'static str; 2] = ["images", "broken"];

    /// Makes a measurement from values by the keys of their metrics, measured on `images` images.
    pub fn new<K: Into<String>>(images: usize, values: impl IntoIterator<Item = (K, f64)>) -> Self {
        let values = values.into_iter().map(|(key, value)| (key.into(), value)).collect();
        Self { values, images, broken: 0 }
    }

    /// The value of a metric.
    ///
    /// # Errors
    /// The value is missing, for example because another task made the measurement.
    pub fn value(&self, metric: &Metric) -> Result<f64> {
        self.values.get(&metric.key).copied().ok_or_else(|| {
            let keys: Vec<_> = self.values.keys().map(String::as_str).collect();
            Error::message(format!("there is no '{}' among the measured values ({})", metric.key, keys.join(", ")))
        })
    }

    /// Adds the value of a metric, and its standard error in the metric's unit if it is known.
    pub fn insert(&mut self, metric: &Metric, value: f64, standard_error: Option<f64>) {
        self.values.insert(metric.key.clone(), value);
        if let Some(error) = standard_error {
            self.values.insert(metric.standard_error_key(), error);
        }
    }

    /// The standard error of a metric's value in the metric's unit, if it is known.
    pub fn standard_error(&self, metric: &Metric) -> Option<f64> {
        self.values.get(&metric.standard_error_key()).copied()
    }

    /// A line for readers, such as `top-1 93.28 % (standard error 0.50), top-5 99.92 % (standard error 0.06) of 2500 images`.
    ///
    /// # Errors
    /// The value of a metric is missing.
    pub fn text(&self, metrics: &[Metric]) -> Result<String> {
        if metrics.is_empty() {
            return Ok(format!("nothing can be measured on {} images without a ground truth", self.images));
        }
        let parts = metrics.iter().map(|metric| {
            let digits = metric.unit.digits();
            let value = metric.unit.text(self.value(metric)?, digits);
            let error = self.standard_error(metric).map(|error| format!(" (standard error {error:.digits$})"));
            Ok(format!("{} {value}{}", metric.title, error.unwrap_or_default()))
        });
        let text = format!("{} of {} images", parts.collect::<Result<Vec<_>>>()?.join(", "), self.images);
        Ok(match self.broken {
            0 => text,
            broken => format!("{text} ({broken} more could not be read)"),
        })
    }
}

impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len() + Self::COUNTS.len()))?;
        for (key, value) in &self.values {
            map.serialize_entry(key, value)?;
        }
        let [images, broken] = Self::COUNTS;
        map.serialize_entry(images, &self.images)?;
        map.serialize_entry(broken, &self.broken)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Measurement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MeasurementVisitor;
        impl<'de> Visitor<'de> for MeasurementVisitor {
            type Value = Measurement;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping with measured values, `images` and `broken`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Measurement, A::Error> {
                let (mut values, mut counts) = (BTreeMap::new(), [None; 2]);
                while let Some(key) = map.next_key::<String>()? {
                    match Measurement::COUNTS.iter().position(|count| *count == key) {
                        Some(i) => counts[i] = Some(map.next_value()?),
                        None => {
                            values.insert(key, map.next_value()?);
                        }
                    }
                }
                let [images, broken] = Measurement::COUNTS.map(de::Error::missing_field);
                Ok(Measurement { values, images: counts[0].ok_or(images)?, broken: counts[1].ok_or(broken)? })
            }
        }
        deserializer.deserialize_map(MeasurementVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_flat_and_is_read_back() {
        let mut measured = Measurement::new(2500, [("top1", 93.28), ("top5", 99.92)]);
        measured.broken = 3;
        let json = serde_json::to_string(&measured).unwrap();
        assert_eq!(json, r#"{"top1":93.28,"top5":99.92,"images":2500,"broken":3}"#);
        assert_eq!(serde_json::from_str::<Measurement>(&json).unwrap(), measured);
        let damaged = |json: &str| serde_json::from_str::<Measurement>(json).unwrap_err().to_string();
        assert!(damaged(r#"{"top1": 1, "broken": 0}"#).contains("missing field `images`"));
        assert!(damaged(r#"{"top1": null, "images": 1, "broken": 0}"#).contains("invalid type: null"));
        assert!(damaged("3").contains("a mapping with measured values"));
    }

    #[test]
    fn values_are_shown_in_their_units() {
        let metrics = [Metric::percent("top1", "top-1"), Metric::number("mae", "mean absolute error")];
        let measured = Measurement::new(64, [("top1", 93.284), ("mae", 0.01234), ("more", 1.0)]);
        assert_eq!(measured.text(&metrics).unwrap(), "top-1 93.28 %, mean absolute error 0.0123 of 64 images");
        let partly = Measurement { broken: 2, ..measured.clone() };
        assert!(partly.text(&metrics).unwrap().ends_with(" of 64 images (2 more could not be read)"));
        assert_eq!(metrics.each_ref().map(Metric::heading), ["top-1 %", "mean absolute error"]);
        let mut known = measured.clone();
        known.insert(&metrics[0], 90.0, Some(3.75));
        let text = known.text(&metrics).unwrap();
        assert_eq!(text, "top-1 90.00 % (standard error 3.75), mean absolute error 0.0123 of 64 images");
        assert_eq!((known.standard_error(&metrics[0]), known.standard_error(&metrics[1])), (Some(3.75), None));
        let none = measured.text(&[]).unwrap();
        assert_eq!(none, "nothing can be measured on 64 images without a ground truth");
        let error = Measurement::new(1, [("b", 1.0)]).value(&Metric::number("a", "A")).unwrap_err().to_string();
        assert_eq!(error, "there is no 'a' among the measured values (b)");
    }
}
