//! Changes a recipe before it is parsed: `--set key=value` and inheritance.

use super::text::shallow;
use crate::error::{Error, Result};
use serde_yaml::{Mapping, Value};

/// Applies one `key=value`. The value is YAML, and the key is a path such as `quant.weight.bits`.
///
/// # Errors
/// There is no `=`, the value is not YAML, or the path runs through a value that is not a mapping.
pub fn apply_set(recipe: &mut Value, assignment: &str) -> Result<()> {
    let Some((key, text)) = assignment.split_once('=') else {
        return Err(Error::setting(format!("--set {assignment}"), "write it as key=value"));
    };
    let refused = |message| Error::setting(format!("--set {key}"), message);
    shallow(text).map_err(refused)?;
    let value = serde_yaml::from_str(text).map_err(|e| refused(format!("'{text}' is not a YAML value: {e}")))?;
    set_path(recipe, key.trim(), value)
}

/// Sets the value at a path and creates missing mappings. A strategy that is given as a bare name
/// becomes a mapping when one of its parameters is set.
pub(super) fn set_path(recipe: &mut Value, path: &str, new: Value) -> Result<()> {
    let mut at = recipe;
    let keys: Vec<&str> = path.split('.').collect();
    for (depth, key) in keys.iter().enumerate() {
        if key.is_empty() {
            return Err(Error::setting(path, "an empty key; write a path such as quant.weight.bits"));
        }
        if let (Value::String(name), true) = (&*at, matches!(*key, "params" | "name" | "merge")) {
            let mut strategy = Mapping::new();
            strategy.insert("name".into(), name.clone().into());
            *at = Value::Mapping(strategy);
        }
        if at.is_null() {
            *at = Value::Mapping(Mapping::new());
        }
        if let Value::Sequence(items) = at {
            let count = items.len();
            let item = key.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            at =
                item.ok_or_else(|| Error::setting(path, format!("'{key}' is not one of the {count} items of a list")))?;
            continue;
        }
        let Value::Mapping(map) = at else {
            let parent = keys[..depth].join(".");
            return Err(Error::setting(path, format!("'{parent}' is a plain value, it has no key '{key}'")));
        };
        at = map.entry((*key).into()).or_insert(Value::Null);
    }
    *at = new;
    Ok(())
}

/// Whether both are strategies with different names.
fn are_other_strategies(base: &Mapping, over: &Mapping) -> bool {
    let is_strategy =
        |m: &Mapping| m.contains_key("name") && m.keys().all(|k| k == "name" || k == "params" || k == "merge");
    is_strategy(base) && is_strategy(over) && base.get("name") != over.get("name")
}

/// Applies `over` to `base`: mappings are merged key by key, and anything else is replaced. A strategy is also
/// replaced as a whole by one of another name, because its parameters would not fit.
pub fn merge(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) if are_other_strategies(&base, &over) => Value::Mapping(over),
        (Value::Mapping(mut base), Value::Mapping(over)) => {
            for (key, value) in over {
                let merged = match base.remove(&key) {
                    Some(old) => merge(old, value),
                    None => value,
                };
                base.insert(key, merged);
            }
            Value::Mapping(base)
        }
        (_, over) => over,
    }
}
