//! From the bytes of a YAML file to a value.

use crate::error::{Error, Result};
use crate::params::join;
use serde::Deserialize;
use serde_yaml::{Deserializer, Mapping, Value};
use std::collections::HashMap;
use std::path::Path;

/// The key that merges other mappings into its own (<https://yaml.org/type/merge.html>).
const MERGE: &str = "<<";

/// Brackets open at once in a recipe's text, at most. The parser takes time that grows with the square of it before it
/// refuses more than 128.
const DEEPEST: usize = 1000;

/// Reads a recipe's file: one YAML document in UTF-8, with or without a byte order mark. Merge keys (`<<`) are applied.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or is not one YAML mapping; the message has line and column.
pub fn read_yaml(file: &Path) -> Result<Value> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    parse_yaml(decode(&bytes).map_err(|message| Error::data(file, message))?, file)
}

/// The text of a UTF-8 file. Other Unicode encodings have a byte order mark, or a zero byte in the first character.
fn decode(bytes: &[u8]) -> Result<&str, String> {
    let advice = "save it as UTF-8 (\"Encoding: UTF-8\" where the editor saves files)";
    let marks: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
    if marks.iter().any(|mark| bytes.starts_with(mark)) || bytes.iter().take(2).any(|b| *b == 0) {
        return Err(format!("is text in UTF-16 or UTF-32; {advice}"));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        format!("is not UTF-8 text: line {line} holds another encoding's character; {advice}")
    })
}

/// Parses the YAML text of a recipe, which is one mapping, and applies its merge keys (`<<`). `origin` is the file's name
/// for messages.
///
/// # Errors
/// The text is not one YAML mapping; the message has line and column.
pub fn parse_yaml(text: &str, origin: &Path) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let error = |message: String| Error::data(origin, message);
    shallow(text).map_err(error)?;
    let mut documents = Deserializer::from_str(text);
    let first = documents.next().map(Value::deserialize).transpose();
    let mut value = first
        .map_err(|e| error(format!("not valid YAML: {e}{}{}", tab(text, &e), repeated(text, &e))))?
        .unwrap_or_default();
    if documents.next().is_some() {
        return Err(error("holds several YAML documents; write each into a file of its own, without `---`".into()));
    }
    let found = match &value {
        Value::Mapping(_) => {
            apply_merges(&mut value, "").map_err(|e| error(e.to_string()))?;
            return Ok(value);
        }
        Value::Null => "is empty",
        Value::Sequence(_) => "is a list",
        _ => "is a single value",
    };
    Err(error(format!("{found}; a recipe is a mapping, such as `extends: imagenet/resnet18_w2a4`")))
}

/// Refuses text with too many brackets open at once. Those in quotes and comments count too, which no recipe notices.
pub(super) fn shallow(text: &str) -> Result<(), String> {
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > DEEPEST {
            return Err(format!("more than {DEEPEST} brackets are open at once; close them"));
        }
    }
    Ok(())
}

/// The lines of a key that the outermost mapping has twice: the parser's error has no place, or the
/// beginning, then.
fn repeated(text: &str, error: &serde_yaml::Error) -> String {
    if error.location().is_some_and(|at| at.index() > 0) {
        return String::new();
    }
    let mut seen = HashMap::new();
    for (line, start) in text.lines().enumerate() {
        let key = start.split_once(':').map(|(key, _)| key.trim_end().trim_matches(['"', '\'']));
        let Some(key) = key.filter(|key| !key.is_empty() && !key.starts_with([' ', '#', '-'])) else { continue };
        if let Some(first) = seen.insert(key, line + 1) {
            return format!(", in lines {first} and {}", line + 1);
        }
    }
    String::new()
}

/// A hint if a line up to the error is indented with a tab, which YAML forbids.
fn tab(text: &str, error: &serde_yaml::Error) -> String {
    let last = error.location().map_or(usize::MAX, |at| at.line() + 1);
    let indented = |line: &str| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    match text.lines().take(last).position(indented) {
        Some(line) => format!("; line {} is indented with a tab: indent with spaces", line + 1),
        None => String::new(),
    }
}

/// Replaces each merge key by the entries of its mappings that are not given already. Of several mappings in a list, the
/// first one that has a key wins. `Value::apply_merge` leaves the merge keys of merged mappings, and changes the order.
fn apply_merges(value: &mut Value, path: &str) -> Result<()> {
    match value {
        Value::Sequence(items) => {
            items.iter_mut().enumerate().try_for_each(|(i, item)| apply_merges(item, &format!("{path}[{i}]")))
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                apply_merges(item, &join(path, key.as_str().unwrap_or("?")))?;
            }
            let Some(merged) = map.shift_remove(MERGE) else { return Ok(()) };
            for other in mappings(merged, path)? {
                for (key, item) in other {
                    map.entry(key).or_insert(item);
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The mappings that a merge key gives.
fn mappings(merged: Value, path: &str) -> Result<Vec<Mapping>> {
    let items = match merged {
        Value::Sequence(items) => items,
        one => vec![one],
    };
    let mapping = |item| match item {
        Value::Mapping(mapping) => Ok(mapping),
        _ => {
            let message = "takes a mapping or a list of mappings, such as `<<: *name` with the mapping `&name` above";
            Err(Error::setting(join(path, MERGE), message))
        }
    };
    items.into_iter().map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        parse_yaml(text, Path::new("r.yaml")).unwrap()
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = parse_yaml(text, Path::new("r.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("data r.yaml: ") && error.contains(message), "{error}");
    }

    #[test]
    fn editors_may_write_marks_and_carriage_returns() {
        let plain = parsed("a: {b: 1}\nc: [x, 'y z']\n");
        assert_eq!(parsed("\u{feff}a: {b: 1}\nc: [x, 'y z']\n"), plain);
        assert_eq!(parsed("a: {b: 1}\r\nc: [x, 'y z']\r\n"), plain);
        assert_eq!(parsed("---\na: {b: 1}\nc: [x, 'y z']\n...\n# end\n"), plain);
        let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for bytes in [utf16("\u{feff}a: 1", u16::to_le_bytes), utf16("\u{feff}a: 1", u16::to_be_bytes)] {
            assert!(
                decode(&bytes).unwrap_err().contains("UTF-16") && decode(&bytes[2..]).unwrap_err().contains("UTF-8")
            );
        }
        assert!(decode(b"a: 1\nb: \xe9\n").unwrap_err().contains("line 2"));
    }

    #[test]
    fn merge_keys_add_what_is_not_given() {
        let text = "
base: &base {a: 1, b: 1, c: 1}
more: &more {<<: *base, b: 2, d: 2}
one: {<<: *more, d: 3, e: {<<: *base, a: 4}}
list: [{z: 0, <<: [*more, {a: 9, f: 9}]}]
";
        let value = parsed(text);
        assert_eq!(value["one"], parsed("{d: 3, e: {a: 4, b: 1, c: 1}, b: 2, a: 1, c: 1}"));
        assert_eq!(value["list"][0], parsed("{z: 0, b: 2, d: 2, a: 1, c: 1, f: 9}"));
        let order: Vec<_> = value["list"][0].as_mapping().unwrap().keys().filter_map(Value::as_str).collect();
        assert_eq!(order, ["z", "b", "d", "a", "c", "f"]);
        refused("a: {<<: 3}", "a.<<: takes a mapping or a list of mappings");
        refused("a: [{<<: [{b: 1}, null]}]", "a[0].<<: takes a mapping");
    }

    #[test]
    fn texts_that_are_no_recipe_say_what_they_are() {
        for empty in ["", "\n# only a comment\n", "---\n", "null", "\u{feff}"] {
            refused(empty, "is empty; a recipe is a mapping");
        }
        refused("- a\n- b\n", "is a list; a recipe is a mapping");
        refused("demo", "is a single value");
        refused("a: 1\n---\nb: 2\n", "holds several YAML documents");
        refused("a: 1\n---\n\"", "holds several YAML documents");
        refused("a:\n  b: 1\n  b: 2\n", "duplicate entry with key \"b\"");
        refused("seed: 1\nname: x\nseed: 2\n", "duplicate entry with key \"seed\", in lines 1 and 3");
        refused("a:\n\tb: 1\n", "line 2 is indented with a tab: indent with spaces");
        refused("a:\n  b: 1\n\tc: 1\n", "line 3 is indented with a tab");
        refused("a: [1\n", "not valid YAML");
        refused(&format!("a: {}1{}", "[".repeat(1000), "]".repeat(1000)), "recursion limit exceeded");
        refused(&format!("a: {}", "[".repeat(200_000)), "more than 1000 brackets are open at once");
        refused(&format!("a: {}", "{a: ".repeat(200_000)), "more than 1000 brackets are open at once");
    }
}
