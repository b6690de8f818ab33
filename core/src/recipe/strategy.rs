//! Strategies in a recipe: a name, or a mapping with `name` and `params`.

use crate::error::Result;
use crate::params::{join, ParamFolders, Params};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

/// The name of a registered strategy and its parameters: `mse` or `{name: mse, params: {...}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    /// Name or alias.
    pub name: String,
    /// Its parameters, not yet parsed.
    pub params: Value,
    /// Where paths in the parameters start from.
    pub(super) folders: ParamFolders,
}

impl Strategy {
    /// A strategy. Relative paths in its parameters start from the current folder.
    pub fn new(name: impl Into<String>, params: Value) -> Self {
        Self { name: name.into(), params, folders: ParamFolders::default() }
    }

    /// The parameters with their path in the recipe; `path` is the strategy's.
    pub fn params_at(&self, path: &str) -> Params {
        Params::new(join(path, "params"), self.params.clone()).in_folders(self.folders.clone())
    }
}

/// The reconstructor of a recipe: a [`Strategy`] with `merge`, groups of neighbouring units, by name or glob pattern,
/// that are reconstructed as one unit, such as `[[layer3.0, layer3.1], ["layer4.*"]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconstructionRecipe {
    /// Name or alias.
    pub name: String,
    /// Its parameters, not yet parsed.
    pub params: Value,
    /// Groups of units that become one unit each.
    pub merge: Vec<Vec<String>>,
    /// Where paths in the parameters start from.
    pub(super) folders: ParamFolders,
}

impl ReconstructionRecipe {
    /// See [`Strategy::params_at`].
    pub fn params_at(&self, path: &str) -> Params {
        Params::new(join(path, "params"), self.params.clone()).in_folders(self.folders.clone())
    }
}

/// The keys of a strategy; `merge` only for those that have it.
struct Parts {
    name: String,
    params: Value,
    merge: Option<Vec<Vec<String>>>,
}

struct PartsVisitor {
    keys: &'static [&'static str],
}

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name or a mapping with `name` and `params`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Parts, E> {
        Ok(Parts { name: name.into(), params: Value::Null, merge: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let (mut name, mut params, mut merge) = (None, Value::Null, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => name = Some(map.next_value()?),
                "params" => params = map.next_value()?,
                "merge" if self.keys.contains(&"merge") => merge = Some(map.next_value()?),
                other => return Err(de::Error::unknown_field(other, self.keys)),
            }
        }
        Ok(Parts { name: name.ok_or_else(|| de::Error::missing_field("name"))?, params, merge })
    }
}

impl<'de> Deserialize<'de> for Strategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = deserializer.deserialize_any(PartsVisitor { keys: &["name", "params"] })?;
        Ok(Self::new(parts.name, parts.params))
    }
}

impl<'de> Deserialize<'de> for ReconstructionRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = deserializer.deserialize_any(PartsVisitor { keys: &["name", "params", "merge"] })?;
        let Parts { name, params, merge } = parts;
        Ok(Self { name, params, merge: merge.unwrap_or_default(), folders: ParamFolders::default() })
    }
}

fn serialize<S: Serializer>(
    serializer: S,
    name: &str,
    params: &Value,
    merge: &[Vec<String>],
) -> Result<S::Ok, S::Error> {
    if params.is_null() && merge.is_empty() {
        return serializer.serialize_str(name);
    }
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("name", name)?;
    if !params.is_null() {
        map.serialize_entry("params", params)?;
    }
    if !merge.is_empty() {
        map.serialize_entry("merge", merge)?;
    }
    map.end()
}

impl Serialize for Strategy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(serializer, &self.name, &self.params, &[])
    }
}

impl Serialize for ReconstructionRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(serializer, &self.name, &self.params, &self.merge)
    }
}
