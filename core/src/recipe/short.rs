//! The short form of a network that comes from a file.

use serde_yaml::{Mapping, Value};

/// Keys of `model` that are not an architecture's name.
const KEYS: [&str; 3] = ["architecture", "weights", "weights_key"];

/// Writes the short form of `model` out: without `architecture`, a key that `model` does not have is the name of an
/// architecture, and its value is that architecture's parameter `file` or a mapping of its parameters. So `model: {onnx: net.onnx}` becomes
/// `model: {architecture: {name: onnx, params: {file: net.onnx}}}`.
pub fn write_out(recipe: &mut Value) {
    let Some(Value::Mapping(model)) = recipe.get_mut("model") else { return };
    if model.get("architecture").is_some_and(|given| !given.is_null()) {
        return;
    }
    let mut names = model.keys().filter_map(Value::as_str).filter(|key| !KEYS.contains(key)).map(String::from);
    let (Some(name), None) = (names.next(), names.next()) else { return };
    let parameters = match model.get(name.as_str()) {
        Some(Value::Mapping(map)) if !map.contains_key("percent_encoded") => Value::Mapping(map.clone()),
        Some(Value::Null) | None => return,
        Some(file) => Value::Mapping(Mapping::from_iter([("file".into(), file.clone())])),
    };
    model.shift_remove(name.as_str());
    let strategy = Mapping::from_iter([("name".into(), name.into()), ("params".into(), parameters)]);
    model.insert("architecture".into(), Value::Mapping(strategy));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written_out(text: &str) -> String {
        let mut value: Value = serde_yaml::from_str(text).unwrap();
        write_out(&mut value);
        serde_yaml::to_string(&value["model"]).unwrap().replace('\n', ";")
    }

    #[test]
    fn a_file_is_short_for_an_architecture() {
        let want = "architecture:;  name: onnx;  params:;    file: net.onnx;";
        assert_eq!(written_out("model: {onnx: net.onnx}"), want);
        assert_eq!(written_out("model: {onnx: {file: net.onnx}}"), want);
        let want = "architecture:;  name: onnx;  params:;    file:;      percent_encoded: caf%E9;";
        assert_eq!(written_out("model: {onnx: {percent_encoded: caf%E9}}"), want);
    }

    #[test]
    fn everything_else_stays() {
        assert_eq!(written_out("model: {architecture: a, wieghts: w}"), "architecture: a;wieghts: w;");
        assert_eq!(written_out("model: {weights: w}"), "weights: w;");
        assert_eq!(written_out("model: {a: 1, b: 2}"), "a: 1;b: 2;");
        assert_eq!(written_out("model: 3"), "3;");
    }
}
