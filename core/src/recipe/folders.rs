//! The folders that a recipe's relative paths start from. A recipe may extend files in other folders, so each value
//! remembers the folder of the file in which it stands.

use serde::{Deserialize, Serialize};
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders by the key of a text, such as `data.params.root`. Items of lists have their number as a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Folders(#[serde(with = "super::path::map")] BTreeMap<String, PathBuf>);

impl Folders {
    /// All texts of `value` stand in a file in `folder`.
    pub fn of_file(value: &Value, folder: &Path) -> Self {
        let mut keys = Vec::new();
        text_keys(value, String::new(), &mut keys);
        Self(keys.into_iter().map(|key| (key, folder.into())).collect())
    }

    /// Whether all texts are in the same folder as the recipe.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The folder of a value: of its text, or of the first text in it.
    pub fn get(&self, key: &str) -> Option<&Path> {
        let found = self.0.get(key).or_else(|| self.at(key).next().map(|(_, folder)| folder));
        found.map(PathBuf::as_path)
    }

    /// The texts at `key` and below it: the rest of their keys, and their folders.
    fn at<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = (&'a str, &'a PathBuf)> + use<'a, 'k> {
        let rest = move |k: &'a str| k.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with('.'));
        self.0.iter().filter_map(move |(k, folder)| Some((rest(k)?, folder)))
    }

    /// The folders of the values below `key`, with the rest of their keys.
    pub fn below(&self, key: &str) -> Self {
        let entry = |(rest, folder): (&str, &PathBuf)| Some((rest.strip_prefix('.')?.to_string(), folder.clone()));
        Self(self.at(key).filter_map(entry).collect())
    }

    /// Adds the folders of `value`, which is laid over this one's value. Where it has none, its texts are in the same
    /// folder as the recipe.
    pub fn overlay(&mut self, value: &Value, folders: Self) {
        let mut keys = Vec::new();
        text_keys(value, String::new(), &mut keys);
        keys.iter().for_each(|key| {
            self.0.remove(key);
        });
        self.0.extend(folders.0);
    }

    /// Keeps the folders of texts that may be paths and are in another folder than `base`.
    pub fn others_than(mut self, base: &Path) -> Self {
        self.0.retain(|key, folder| folder != base && may_be_path(key));
        self
    }

    /// Drops everything but the texts of `value`.
    pub fn only_of(mut self, value: &Value) -> Self {
        let mut keys = Vec::new();
        text_keys(value, String::new(), &mut keys);
        keys.sort_unstable();
        self.0.retain(|key, _| keys.binary_search(key).is_ok());
        self
    }

    /// The value at `key` was replaced by one that is in the same folder as the recipe.
    pub fn forget(&mut self, key: &str) {
        let gone: Vec<String> = self.at(key).map(|(rest, _)| format!("{key}{rest}")).collect();
        gone.iter().for_each(|key| {
            self.0.remove(key);
        });
    }

    /// The value at `to` was replaced by a copy of the one at `from`.
    pub fn copy(&mut self, from: &str, to: &str) {
        let copies: Vec<_> = self.at(from).map(|(rest, folder)| (format!("{to}{rest}"), folder.clone())).collect();
        self.forget(to);
        self.0.extend(copies);
    }
}

/// Collects the keys of all texts in a value.
fn text_keys(value: &Value, at: String, keys: &mut Vec<String>) {
    let below = |key: &str| if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
    match value {
        Value::String(_) => keys.push(at),
        Value::Sequence(items) => {
            items.iter().enumerate().for_each(|(i, item)| text_keys(item, below(&i.to_string()), keys))
        }
        Value::Mapping(map) => {
            let named = map.iter().filter_map(|(key, item)| Some((key.as_str()?, item)));
            named.for_each(|(key, item)| text_keys(item, below(key), keys));
        }
        _ => {}
    }
}

/// Whether the text at a key may be a path: one of the recipe's own paths, the name of the dataset (whose request has
/// its folder), or a parameter of any strategy. Variants have the same keys.
fn may_be_path(key: &str) -> bool {
    let of_variant = || {
        let (_, rest) = key.strip_prefix("compare.")?.split_once(".set.")?;
        Some(rest)
    };
    let key = of_variant().unwrap_or(key);
    matches!(key, "model.weights" | "data_root" | "cache.spill" | "data" | "data.name") || key.contains(".params.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    fn shown(folders: &Folders) -> Vec<(&str, &str)> {
        folders.0.iter().map(|(key, folder)| (key.as_str(), folder.to_str().unwrap())).collect()
    }

    #[test]
    fn only_texts_that_may_be_paths_in_other_folders_are_kept() {
        let value = yaml(
            "{name: n, seed: 3, model: {weights: w, architecture: a}, data: {name: d, params: {root: r, size: 4}}, \
             quant: {overrides: [{weight: {observer: {name: o, params: {file: f}}}}]}, \
             compare: [{name: v, set: {data.params.root: q, quant.setting: s}}]}",
        );
        let folders = Folders::of_file(&value, Path::new("/a"));
        assert!(folders.clone().others_than(Path::new("/a")).is_empty());
        let others = folders.others_than(Path::new("/b"));
        let want = [
            "compare.0.set.data.params.root",
            "data.name",
            "data.params.root",
            "model.weights",
            "quant.overrides.0.weight.observer.params.file",
        ];
        assert_eq!(shown(&others), want.map(|key| (key, "/a")));
    }

    #[test]
    fn values_are_found_copied_and_forgotten_with_what_is_below_them() {
        let mut folders = Folders::of_file(&yaml("{a: {b: x, c: [y, z]}, ab: w}"), Path::new("/a"));
        assert_eq!(
            (folders.get("a.c.1"), folders.get("a.c"), folders.get("a.d")),
            (Some(Path::new("/a")), Some(Path::new("/a")), None)
        );
        assert_eq!(shown(&folders.below("a")), [("b", "/a"), ("c.0", "/a"), ("c.1", "/a")]);
        folders.copy("a.c", "e");
        folders.forget("a");
        assert_eq!(shown(&folders), [("ab", "/a"), ("e.0", "/a"), ("e.1", "/a")]);
        assert_eq!(shown(&folders.clone().only_of(&yaml("{ab: w, e: 3}"))), [("ab", "/a")]);
        let over = yaml("{e: [v], f: {g: u}}");
        folders.overlay(&over, Folders::of_file(&over["f"], Path::new("/b")));
        assert_eq!(shown(&folders), [("ab", "/a"), ("e.1", "/a"), ("g", "/b")]);
    }
}
