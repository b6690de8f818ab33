//! Paths in a recipe.

use percent_encoding::{percent_decode_str, percent_encode, AsciiSet, CONTROLS};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The key of a path that is not Unicode.
const KEY: &str = "percent_encoded";
/// Everything else of ASCII stays readable. All other bytes are always encoded.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// A path as a recipe has it: text, or `{percent_encoded: /data/caf%E9}` for a path that is not Unicode, which
/// neither YAML nor JSON can contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipePath<'a>(pub Cow<'a, Path>);

impl Serialize for RecipePath<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => {
                let bytes = bytes(&self.0).ok_or_else(|| {
                    S::Error::custom(format!("{} is not Unicode, and cannot be saved on this system", self.0.display()))
                })?;
                serializer.collect_map([(KEY, percent_encode(bytes, ENCODED).to_string())])
            }
        }
    }
}

impl<'de> Deserialize<'de> for RecipePath<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor).map(|path| Self(Cow::Owned(path)))
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = PathBuf;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a path, or {{{KEY}: PATH}}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PathBuf, E> {
        Ok(text.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PathBuf, A::Error> {
        let mut path = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != KEY || path.is_some() {
                return Err(A::Error::unknown_field(&key, &[KEY]));
            }
            path = Some(map.next_value::<String>()?);
        }
        let text = path.ok_or_else(|| A::Error::missing_field(KEY))?;
        let decoded: Vec<u8> = percent_decode_str(&text).collect();
        from_bytes(decoded).ok_or_else(|| A::Error::custom(format!("'{text}' is not a path on this system")))
    }
}

#[cfg(unix)]
fn bytes(path: &Path) -> Option<&[u8]> {
    use std::os::unix::ffi::OsStrExt;
    Some(path.as_os_str().as_bytes())
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn bytes(path: &Path) -> Option<&[u8]> {
    path.to_str().map(str::as_bytes)
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

/// For `#[serde(with)]` of a path.
pub(super) mod one {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        RecipePath(Cow::Borrowed(path)).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(RecipePath::deserialize(deserializer)?.0.into_owned())
    }
}

/// For `#[serde(with)]` of a path that need not be given.
pub(super) mod option {
    use super::*;

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(|p| RecipePath(Cow::Borrowed(p))).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<RecipePath<'_>>::deserialize(deserializer)?.map(|p| p.0.into_owned()))
    }
}

/// For `#[serde(with)]` of a list of paths.
pub(super) mod list {
    use super::*;

    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|p| RecipePath(Cow::Borrowed(p))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<RecipePath<'_>>::deserialize(deserializer)?.into_iter().map(|p| p.0.into_owned()).collect())
    }
}

/// For `#[serde(with)]` of paths by name.
pub(super) mod map {
    use super::*;
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer>(paths: &BTreeMap<String, PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(paths.iter().map(|(name, p)| (name, RecipePath(Cow::Borrowed(p)))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, PathBuf>, D::Error> {
        let paths = BTreeMap::<String, RecipePath<'_>>::deserialize(deserializer)?;
        Ok(paths.into_iter().map(|(name, p)| (name, p.0.into_owned())).collect())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RecipePath<'static> {
        RecipePath(Cow::Owned(from_bytes(bytes.to_vec()).unwrap()))
    }

    #[test]
    fn every_path_is_read_as_it_was_written() {
        for (bytes, want) in [
            (&b"/data/val"[..], "/data/val\n"),
            ("/d\u{e4}ten/100%".as_bytes(), "/d\u{e4}ten/100%\n"),
            (b"/data/caf\xe9 100%\n", "percent_encoded: /data/caf%E9 100%25%0A\n"),
        ] {
            let text = serde_yaml::to_string(&path(bytes)).unwrap();
            assert_eq!(text, want);
            assert_eq!(serde_yaml::from_str::<RecipePath<'_>>(&text).unwrap(), path(bytes));
            let text = serde_json::to_string(&path(bytes)).unwrap();
            assert_eq!(serde_json::from_str::<RecipePath<'_>>(&text).unwrap(), path(bytes));
        }
    }

    #[test]
    fn folders_of_single_keys_may_have_any_name() {
        use crate::recipe::Folders;
        let value = serde_yaml::from_str("{model: {weights: w}}").unwrap();
        let folders = Folders::of_file(&value, &path(b"/caf\xe9").0);
        let text = serde_yaml::to_string(&folders).unwrap();
        assert_eq!(text, "model.weights:\n  percent_encoded: /caf%E9\n");
        assert_eq!(serde_yaml::from_str::<Folders>(&text).unwrap(), folders);
    }

    #[test]
    fn anything_else_is_an_error() {
        let error = |text: &str| serde_yaml::from_str::<RecipePath<'_>>(text).unwrap_err().to_string();
        assert!(error("3").contains("expected a path, or {percent_encoded: PATH}"), "{}", error("3"));
        assert!(error("{bytes: x}").contains("unknown field `bytes`, expected `percent_encoded`"));
        assert!(error("{}").contains("missing field `percent_encoded`"));
    }
}
