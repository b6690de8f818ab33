use super::*;

const MINIMAL: &str = "
name: test
model: {architecture: resnet18}
data: {name: idx, params: {train: a}}
quant:
  setting: qdrop
  weight: {bits: 2, granularity: per_channel, observer: mse, quantizer: adaround}
  activation: {bits: 4, granularity: per_tensor, observer: avg_mse, quantizer: lsq}
reconstruction: qdrop
";

fn read(text: &str) -> Result<Recipe> {
    Recipe::from_yaml(text, Path::new("dir/r.yaml"))
}

fn edited(assignment: &str) -> Result<Recipe> {
    let mut value: Value = serde_yaml::from_str(MINIMAL).unwrap();
    apply_set(&mut value, assignment)?;
    Recipe::from_value(value, Path::new("dir/r.yaml"))
}

#[test]
fn defaults_and_round_trip() {
    let recipe = read(MINIMAL).unwrap();
    assert_eq!((recipe.seed, recipe.calibration.images, recipe.calibration.observe), (1005, 1024, 256));
    assert_eq!(recipe.bits(), "w2a4");
    assert_eq!(recipe.resolve("model.weights", Path::new("w.pth")), Path::new("dir/w.pth"));
    assert_eq!(read(&recipe.to_yaml().unwrap()).unwrap(), recipe);
    assert_eq!((recipe.task.name.as_str(), &recipe.task.params), ("classification", &Value::Null));
    // The text of recipes from before there were tasks does not change.
    assert!(!recipe.to_yaml().unwrap().contains("task"));
    let other = edited("task=detection").unwrap();
    assert!(other.to_yaml().unwrap().contains("\ntask: detection\n"));
    assert_eq!(read(&other.to_yaml().unwrap()).unwrap(), other);
}

#[test]
fn unknown_keys_at_any_depth_are_named() {
    for (assignment, message) in [
        ("seeed=1", "data dir/r.yaml: seeed: unknown field `seeed`"),
        ("quant.weight.bit=4", "quant.weight.bit: unknown field `bit`"),
        ("model.weight=x", "model.weight: unknown field `weight`"),
        ("reconstruction={name: qdrop, parms: 1}", "reconstruction: unknown field `parms`"),
        ("calibration.images=many", "calibration.images: invalid type: string \"many\""),
        ("quant.setting=qdrp", "quant.setting: unknown variant `qdrp`"),
    ] {
        let error = edited(assignment).unwrap_err().to_string();
        assert!(error.contains(message), "{assignment}: {error}");
    }
}

#[test]
fn impossible_values_are_named() {
    for bits in [0, 17] {
        let error = edited(&format!("quant.weight.bits={bits}")).unwrap_err().to_string();
        assert!(error.contains(&format!("quant.weight.bits: {bits} bits are not supported")), "{error}");
    }
    let error = edited("quant.overrides=[{match: fc, weight: {bits: 17}}]").unwrap_err().to_string();
    assert!(error.contains("quant.overrides[0].weight.bits: 17 bits"), "{error}");
    let error = edited("calibration.images=0").unwrap_err().to_string();
    assert!(error.contains("calibration.images: must be at least 1"), "{error}");
    let error = edited("seed.deep=1").unwrap_err().to_string();
    assert!(error.contains("unknown field") || error.contains("invalid type"), "{error}");
    let error = edited("name.deep=1").unwrap_err().to_string();
    assert!(error.contains("'name' is a plain value"), "{error}");
    assert!(edited("seed").unwrap_err().to_string().contains("write it as key=value"));
    let error = read("a: [").unwrap_err().to_string();
    assert!(error.contains("not valid YAML") && error.contains("line"), "{error}");
}

#[test]
fn setting_a_parameter_of_a_bare_name_keeps_the_name() {
    let recipe = edited("reconstruction.params.iters=20").unwrap();
    assert_eq!(recipe.reconstruction.name, "qdrop");
    assert_eq!(recipe.reconstruction.params["iters"], Value::from(20));
    assert_eq!(edited("quant.weight.observer=minmax").unwrap().quant.weight.observer.name, "minmax");
}

#[test]
fn units_are_merged_by_the_reconstruction_alone() {
    let recipe = edited("reconstruction.merge=[[a, b], ['c.*']]").unwrap();
    assert_eq!((recipe.reconstruction.name.as_str(), recipe.reconstruction.merge.len()), ("qdrop", 2));
    assert_eq!(read(&recipe.to_yaml().unwrap()).unwrap(), recipe);
    let error = edited("quant.weight.observer={name: mse, merge: []}").unwrap_err().to_string();
    assert!(error.contains("quant.weight.observer: unknown field `merge`"), "{error}");
    // Without groups the text of the recipe does not change.
    assert!(read(MINIMAL).unwrap().to_yaml().unwrap().contains("reconstruction: qdrop\n"));
}

#[test]
fn variants_change_a_copy() {
    let mut recipe = read(MINIMAL).unwrap();
    let set = serde_yaml::from_str("{reconstruction.params.drop_prob: 1.0}").unwrap();
    recipe.compare = vec![Variant { name: "no drop".into(), set }];
    let variant = recipe.variant(&recipe.compare[0]).unwrap();
    assert_eq!(variant.reconstruction.params["drop_prob"], Value::from(1.0));
    assert!(variant.compare.is_empty());
}

#[test]
fn merging_goes_key_by_key() {
    let a: Value = serde_yaml::from_str("{a: {b: 1, c: 2}, d: [1, 2]}").unwrap();
    let b: Value = serde_yaml::from_str("{a: {c: 3}, d: [4]}").unwrap();
    let want: Value = serde_yaml::from_str("{a: {b: 1, c: 3}, d: [4]}").unwrap();
    assert_eq!(merge(a, b), want);
}

#[test]
fn another_strategy_does_not_inherit_parameters() {
    let yaml = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
    let base = yaml("model: {architecture: {name: a, params: {x: 1, y: 2}}}");
    let same = merge(base.clone(), yaml("model: {architecture: {name: a, params: {x: 3}}}"));
    assert_eq!(same, yaml("model: {architecture: {name: a, params: {x: 3, y: 2}}}"));
    let other = merge(base, yaml("model: {architecture: {name: b, params: {z: 3}}}"));
    assert_eq!(other, yaml("model: {architecture: {name: b, params: {z: 3}}}"));
}
