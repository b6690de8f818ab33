//! Where recipes differ.

use qdrop_core::recipe::Recipe;
use serde_yaml::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The keys in which not all recipes have the same value, each with the value of every recipe; empty where a recipe has none. Names,
/// descriptions and folders do not count.
pub fn differences(recipes: &[&Recipe]) -> Vec<(String, Vec<String>)> {
    let leaves = recipes.iter().map(|recipe| {
        let mut leaves = BTreeMap::new();
        if let Ok(value) = serde_yaml::to_value(recipe) {
            collect("", &value, &mut leaves);
        }
        leaves
    });
    let leaves: Vec<BTreeMap<String, String>> = leaves.collect();
    let keys: BTreeSet<&String> = leaves.iter().flat_map(BTreeMap::keys).collect();
    let counts = |key: &&String| {
        let first = key.split('.').next().unwrap_or_default();
        !["name", "description", "folders", "base_dir"].contains(&first)
    };
    let row = |key: &String| leaves.iter().map(|leaves| leaves.get(key).cloned().unwrap_or_default()).collect();
    let rows = keys.into_iter().filter(counts).map(|key| (key.clone(), row(key)));
    rows.filter(|(_, row): &(String, Vec<String>)| row.iter().any(|value| Some(value) != row.first())).collect()
}

/// Collects the values of mappings within mappings by their keys. Lists of mappings have the name or pattern of each as its key, else
/// its number; other lists are values.
fn collect(key: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Mapping(map) => map.iter().for_each(|(name, value)| {
            let name = name.as_str().unwrap_or_default();
            let key = if key.is_empty() { name.into() } else { format!("{key}.{name}") };
            collect(&key, value, leaves);
        }),
        Value::Sequence(items) if items.iter().any(Value::is_mapping) => {
            for (i, item) in items.iter().enumerate() {
                // The same layers may have several overrides.
                let name = name_of(item).filter(|name| items[..i].iter().all(|other| name_of(other) != Some(*name)));
                let name = name.map_or_else(|| i.to_string(), String::from);
                let key = format!("{key}[{name}]");
                collect(&key, item, leaves);
                // It stands in the key.
                NAMES
                    .iter()
                    .for_each(|own| leaves.retain(|other, value| *other != format!("{key}.{own}") || *value != name));
            }
        }
        Value::Sequence(items) => {
            let text = |item: &Value| serde_yaml::to_string(item).unwrap_or_default().trim_end().to_string();
            let texts: Vec<String> = items.iter().map(text).collect();
            leaves.insert(key.into(), texts.join(", "));
        }
        Value::String(text) => drop(leaves.insert(key.into(), text.clone())),
        value => drop(leaves.insert(key.into(), serde_json::to_string(value).unwrap_or_default())),
    }
}

/// The keys that tell the items of a list from each other.
const NAMES: [&str; 2] = ["match", "name"];

fn name_of(item: &Value) -> Option<&str> {
    NAMES.iter().find_map(|key| item.get(key)?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipes::Loader;

    #[test]
    fn only_what_differs_is_listed() {
        let load = |changes: &[&str]| {
            changes.iter().fold(Loader::new("demo"), |loader, change| loader.set(*change)).load().unwrap()
        };
        let a = load(&["name=a"]);
        let b = load(&["name=b", "reconstruction.params.drop_prob=1.0", "quant.overrides=[{match: fc, float: true}]"]);
        let all = differences(&[&a, &b, &a]);
        let keys: Vec<&str> = all.iter().map(|(key, _)| key.as_str()).collect();
        let name = "reconstruction.params.drop_prob";
        assert_eq!(keys, ["quant.overrides[fc].float", name]);
        assert_eq!(all[0].1, ["", "true", ""]);
        assert_eq!(all[1].1[1], "1.0");
        assert!(differences(&[&a, &a]).is_empty());
    }
}
