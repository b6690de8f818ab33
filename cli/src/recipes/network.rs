//! The recipe of a network that is given as a file, without a recipe.

use super::absolute;
use crate::error::{did_you_mean, At, Result, Stage};
use qdrop_core::recipe::RecipePath;
use qdrop_core::registry::nearest;
use qdrop_core::Error as Core;
use serde_yaml::{Mapping, Value};
use std::borrow::Cow;
use std::path::Path;

/// Bit widths where none are given.
const DEFAULT_BITS: &str = "w4a4";
/// What a network is quantized with where no preset is given.
const DEFAULT_PRESET: &str = "fast";
/// The presets: `fast` has what was found to help in minutes, `published` is QDrop as it was published, which takes hours.
const PRESETS: [&str; 2] = [DEFAULT_PRESET, "published"];

/// Whether this is the name of a file with a network: by its extension, because a wrong file is better refused by the
/// architecture that reads it.
pub fn recognizes(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// Bits of weights and activations from a text such as `w4a4`.
///
/// # Errors
/// The text is something else.
pub fn bits(text: &str) -> Result<[u32; 2]> {
    let parse = || {
        let (weights, activations) = text.strip_prefix(['w', 'W'])?.split_once(['a', 'A'])?;
        Some([weights.parse().ok()?, activations.parse().ok()?])
    };
    let message = format!("'{text}' are no bits of weights and activations; write them as w4a4 or w2a4");
    parse().ok_or_else(|| Core::setting("--bits", message)).at(Stage::Recipe)
}

/// The recipe of the network in this file, with everything that it inherits by name.
///
/// # Errors
/// The bits or the preset are not known.
pub fn recipe(file: &Path, given_bits: Option<&str>, preset: Option<&str>) -> Result<Value> {
    let text = given_bits.unwrap_or(DEFAULT_BITS);
    let [weights, activations] = bits(text)?;
    let preset = preset.unwrap_or(DEFAULT_PRESET);
    let mut parents = vec!["imagenet/_base"];
    match preset {
        DEFAULT_PRESET if weights.min(activations) >= 8 => parents.push("best/_w8a8"),
        DEFAULT_PRESET => {
            parents.push("best/_best");
            if [weights, activations] == [2, 4] {
                parents.push("best/_w2a4");
            }
        }
        "published" => {}
        unknown => {
            let suggestion = did_you_mean(&nearest(unknown, PRESETS));
            let message = format!("unknown preset '{unknown}'{suggestion}; known: {}", PRESETS.join(", "));
            return Err(Core::setting("--preset", message)).at(Stage::Recipe);
        }
    }
    let path = absolute(file)?;
    let path = serde_yaml::to_value(RecipePath(Cow::Borrowed(&path))).map_err(Core::message).at(Stage::Recipe)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let map = |entries: Vec<(&str, Value)>| {
        Value::Mapping(entries.into_iter().map(|(k, v)| (k.into(), v)).collect::<Mapping>())
    };
    let of_bits = |bits: u32| map(vec![("bits", bits.into())]);
    Ok(map(vec![
        ("extends", parents.into_iter().map(Value::from).collect()),
        ("name", format!("{stem}_w{weights}a{activations}").into()),
        ("model", map(vec![("onnx", path)])),
        // The classes and the size of images are those of the network.
        ("data", map(vec![("params", map(vec![("class_list", Value::Null), ("resize", Value::Null)]))])),
        ("quant", map(vec![("weight", of_bits(weights)), ("activation", of_bits(activations))])),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_weights_and_activations() {
        assert_eq!(bits("w4a8").unwrap(), [4, 8]);
        assert_eq!(bits("W2A4").unwrap(), [2, 4]);
        for wrong in ["4", "w4", "a4w4", "w4a", "wxay", ""] {
            assert!(bits(wrong).unwrap_err().to_string().contains("write them as w4a4"), "{wrong}");
        }
    }

    #[test]
    fn presets_are_known_recipes() {
        let parents = |bits, preset| {
            let recipe = recipe(Path::new("net.onnx"), bits, preset).unwrap();
            serde_yaml::to_string(&recipe["extends"]).unwrap().replace('\n', " ")
        };
        assert_eq!(parents(None, None), "- imagenet/_base - best/_best ");
        assert_eq!(parents(Some("w2a4"), Some("fast")), "- imagenet/_base - best/_best - best/_w2a4 ");
        assert_eq!(parents(Some("w8a8"), None), "- imagenet/_base - best/_w8a8 ");
        assert_eq!(parents(Some("w2a4"), Some("published")), "- imagenet/_base ");
        let error = recipe(Path::new("net.onnx"), None, Some("fats")).unwrap_err();
        assert!(format!("{error}").contains("did you mean 'fast'?"), "{error}");
    }
}
