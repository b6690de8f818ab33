//! A strategy's own parameters.

use crate::error::{Error, Result};
use crate::recipe::Folders;
use serde::de::DeserializeOwned;
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// The parameters of one strategy as YAML, and their path in the recipe.
#[derive(Debug, Clone)]
pub struct Params {
    path: String,
    value: Value,
    folders: ParamFolders,
}

/// The folders that paths in parameters start from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ParamFolders {
    base: PathBuf,
    others: Folders,
}

impl ParamFolders {
    /// The recipe's own folder, and those of single parameters that stand in files in other folders.
    pub(crate) fn new(base: &Path, others: Folders) -> Self {
        Self { base: base.into(), others }
    }
}

impl Params {
    /// Parameters from `path` of a recipe.
    pub fn new(path: impl Into<String>, value: Value) -> Self {
        Self { path: path.into(), value, folders: ParamFolders::default() }
    }

    pub(crate) fn in_folders(self, folders: ParamFolders) -> Self {
        Self { folders, ..self }
    }

    /// No parameters.
    pub fn none(path: impl Into<String>) -> Self {
        Self::new(path, Value::Null)
    }

    /// Path of the parameters in the recipe.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Parses the parameters as `T`. Missing parameters are treated as an empty mapping.
    ///
    /// # Errors
    /// [`Error::Setting`] with the full path of the invalid key.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let value = match &self.value {
            Value::Null => Value::Mapping(Default::default()),
            value => value.clone(),
        };
        parse_value(value, &self.path)
    }

    /// These parameters, and for keys that they do not give those of `preset`, a YAML mapping.
    ///
    /// # Errors
    /// [`Error::Setting`]: the parameters or the preset are no mapping.
    pub fn over(&self, preset: &str) -> Result<Self> {
        let mut all: serde_yaml::Mapping =
            serde_yaml::from_str(preset).map_err(|e| Error::setting(&self.path, format!("its preset: {e}")))?;
        all.extend(match &self.value {
            Value::Null => Default::default(),
            value => parse_value::<serde_yaml::Mapping>(value.clone(), &self.path)?,
        });
        Ok(Self { value: Value::Mapping(all), ..self.clone() })
    }

    /// Checks that no parameters are given.
    ///
    /// # Errors
    /// [`Error::Setting`] with the name of the first given parameter.
    pub fn expect_none(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        self.parse::<Nothing>().map(|_| ())
    }

    /// The file or folder that the parameter `key` names. A relative `path` starts from the folder of the recipe's file in
    /// which the parameter stands; that of a parameter that is not given starts from the folder of the recipe itself.
    pub fn resolve(&self, key: &str, path: impl AsRef<Path>) -> PathBuf {
        self.folders.others.get(key).unwrap_or(&self.folders.base).join(path)
    }

    /// Checks that none of these sizes is 0.
    ///
    /// # Errors
    /// [`Error::Setting`] with the name of the first one that is.
    pub fn at_least_one(&self, sizes: &[(&str, usize)]) -> Result<()> {
        match sizes.iter().find(|(_, size)| *size == 0) {
            Some((key, _)) => Err(self.error(key, "must be at least 1")),
            None => Ok(()),
        }
    }

    /// An error about parameter `key`.
    pub fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::setting(join(&self.path, key), message)
    }
}

/// Deserializes the `value` at `path`. Errors have the path of the innermost key.
///
/// # Errors
/// [`Error::Setting`]: a key is unknown or missing, or a type is wrong.
pub fn parse_value<T: DeserializeOwned>(value: Value, path: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let inner = e.path().to_string();
        let inner = if inner == "." { "" } else { inner.as_str() };
        Error::setting(join(path, inner), in_words(&e.inner().to_string()))
    })
}

/// The parser's message without names of Rust types.
fn in_words(message: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else { return message.into() };
    let words: Vec<&str> = expected.split(' ').collect();
    let expected = match words[..] {
        ["u8" | "u16" | "u32" | "u64" | "usize"] => "a whole number that is not negative",
        ["i8" | "i16" | "i32" | "i64" | "isize"] => "a whole number",
        ["f32" | "f64"] => "a number",
        ["struct", _] | ["a", "map"] => "a mapping",
        ["a", "sequence"] => "a list",
        // A value that can be written with a tag.
        ["a", "Value::Tagged", "enum"] => "a name",
        _ => expected,
    };
    format!("{found}, expected {expected}")
}

/// Appends a key to a path.
pub fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.is_empty()) {
        (true, _) => key.into(),
        (_, true) => path.into(),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_the_full_path() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct P {
            bins: usize,
        }
        let params = |text| Params::new("quant.weight.observer.params", serde_yaml::from_str(text).unwrap());
        let error = params("bins: many").parse::<P>().unwrap_err().to_string();
        assert!(error.starts_with("quant.weight.observer.params.bins: invalid type: string"), "{error}");
        let error = params("bins: 3\nbin: 4").parse::<P>().unwrap_err().to_string();
        assert!(error.starts_with("quant.weight.observer.params.bin: unknown field `bin`"), "{error}");
        assert!(params("x: 1").expect_none().is_err());
        let over = params("{bins: 3, more: 4}").over("{bins: 1, others: 2}").unwrap();
        assert_eq!(over.value, serde_yaml::from_str::<Value>("{bins: 3, others: 2, more: 4}").unwrap());
        let error = params("[3]").over("{bins: 1}").unwrap_err().to_string();
        assert!(error.starts_with("quant.weight.observer.params: invalid type: sequence"), "{error}");
        assert!(Params::none("p").expect_none().is_ok());
    }
}
