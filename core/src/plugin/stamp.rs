//! The stamp: what a plugin was built with.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// The rows of this build's stamp, in the format of a record.
pub const STAMP: &str = concat!(
    "rustc: ",
    env!("QDROP_STAMP_RUSTC"),
    "\ntarget: ",
    env!("QDROP_STAMP_TARGET"),
    "\nqdrop-core: ",
    env!("CARGO_PKG_VERSION"),
    "\nsource: ",
    env!("QDROP_STAMP_SOURCE"),
    "\ncandle: ",
    env!("QDROP_STAMP_CANDLE"),
    "\nfeatures: ",
    env!("QDROP_STAMP_FEATURES"),
    "\nprofile: ",
    env!("QDROP_STAMP_PROFILE"),
    "\n"
);

/// What a plugin was built with: compiler, target, version and source of the framework, version of
/// candle, features and profile. If any of it differs, plugin and program cannot exchange values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(BTreeMap<String, String>);

impl Stamp {
    /// The stamp of this program.
    pub fn of_this_build() -> Self {
        Self::parse(STAMP)
    }

    /// Parses rows of the form `name: value`.
    pub(super) fn parse(text: &str) -> Self {
        let row = |line: &str| line.split_once(": ").map(|(name, value)| (name.into(), value.into()));
        Self(text.lines().filter_map(row).collect())
    }

    /// Names and values of the rows.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The rows that differ from `other`, the program's own stamp.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let value = |stamp: &Self, name: &String| stamp.0.get(name).cloned().unwrap_or_else(|| "missing".into());
        let rows =
            names.into_iter().map(|n| Difference { row: n.clone(), plugin: value(self, n), here: value(other, n) });
        rows.filter(|d| d.plugin != d.here).collect()
    }
}

/// A row that differs between a plugin and this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the row.
    pub row: String,
    /// Its value in the plugin.
    pub plugin: String,
    /// Its value in this program.
    pub here: String,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} in the plugin and {} here", self.row, self.plugin, self.here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_differ_are_told() {
        let here = Stamp::of_this_build();
        assert_eq!(here.rows().count(), 7);
        assert!(here.rows().all(|(_, value)| !value.is_empty() && value != "unknown"), "{here:?}");
        assert_eq!(here.differences(&here), []);
        let other = Stamp::parse(&STAMP.replace(env!("QDROP_STAMP_CANDLE"), "0.1.0"));
        let differences = other.differences(&here);
        assert_eq!(differences.len(), 1);
        assert!(differences[0].to_string().starts_with("candle is 0.1.0 in the plugin and "), "{}", differences[0]);
        assert_eq!(Stamp::parse("").differences(&here)[0].plugin, "missing");
    }
}
