//! Reads the configuration files of the reference implementation (github.com/wimh966/QDrop).

use qdrop_core::params::parse_value;
use qdrop_core::recipe::read_yaml;
use qdrop_core::{Error, Result};
use serde::Deserialize;
use serde_yaml::{Mapping, Value};
use std::path::{Path, PathBuf};

/// Architectures by the reference's names.
const MODELS: &str = include_str!("../../recipes/reference_models.yaml");
/// Limit of the inheritance depth of configurations.
const MAX_DEPTH: usize = 8;

/// A configuration for classification. Keys without a meaning for qdrop are accepted and ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    quant: Quant,
    model: Model,
    data: Data,
    process: Process,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quant {
    a_qconfig: Tensor,
    w_qconfig: Tensor,
    calibrate: usize,
    recon: Option<Reconstruction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    quantizer: String,
    observer: String,
    bit: u32,
    symmetric: bool,
    ch_axis: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reconstruction {
    batch_size: usize,
    scale_lr: f64,
    warm_up: f64,
    weight: f64,
    iters: usize,
    b_range: [f64; 2],
    round_mode: Option<String>,
    drop_prob: f64,
    /// Whether cached values stay on the GPU. Ignored.
    #[serde(rename = "keep_gpu")]
    _keep_gpu: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    path: PathBuf,
    #[serde(default)]
    kwargs: Mapping,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    path: PathBuf,
    batch_size: usize,
    input_size: usize,
    test_resize: usize,
    #[serde(rename = "num_workers")]
    _num_workers: Option<usize>,
    #[serde(rename = "pin_memory")]
    _pin_memory: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    seed: u64,
}

/// Whether this is a configuration of the reference implementation.
pub fn recognizes(value: &Value) -> bool {
    let quant = value.get("quant").unwrap_or(value);
    quant.get("a_qconfig").is_some() || quant.get("w_qconfig").is_some() || value.get("root").is_some()
}

/// Converts the configuration in `file` to an equivalent recipe.
///
/// # Errors
/// A key is unknown or missing, or a value has no counterpart here.
pub fn to_recipe(value: Value, file: &Path) -> Result<Value> {
    let value = inherit(value, file, 0)?;
    if value.get("quant").is_none() || value.get("model").is_none() {
        let message = "it has no `quant` or no `model`; only the configurations for classification can be read";
        return Err(Error::message(message));
    }
    recipe(&parse_value(value, "")?)
}

/// Adds the missing sections from the file that `root` names. Sections are not merged.
fn inherit(mut value: Value, file: &Path, depth: usize) -> Result<Value> {
    let Some(root) = value.as_mapping_mut().and_then(|m| m.remove("root")) else { return Ok(value) };
    if depth == MAX_DEPTH {
        let message = format!("more than {MAX_DEPTH} levels up from {}; does it name itself?", file.display());
        return Err(Error::setting("root", message));
    }
    let root = root.as_str().ok_or_else(|| Error::setting("root", "takes the name of a file"))?;
    let root = file.parent().unwrap_or(Path::new("")).join(root);
    let shown = format!("{}, the root of {}", root.display(), file.display());
    let base = read_yaml(&root).map_err(|e| Error::message(format!("{shown}: {e}")))?;
    let mut base = inherit(base, &root, depth + 1)?;
    for section in ["model", "data"] {
        if let Some(Value::String(path)) = base.get_mut(section).and_then(|s| s.get_mut("path")) {
            // It stands beside its own file.
            let resolved = std::path::absolute(root.with_file_name(&*path)).map_err(Error::io("resolve", &root))?;
            *path = resolved.to_string_lossy().into_owned();
        }
    }
    if let (Value::Mapping(value), Value::Mapping(base)) = (&mut value, base) {
        for (key, section) in base {
            value.entry(key).or_insert(section);
        }
    }
    Ok(value)
}

fn recipe(config: &Config) -> Result<Value> {
    let (quant, data) = (&config.quant, &config.data);
    let architecture = architecture(&config.model, data.input_size)?;
    let weight = tensor(&quant.w_qconfig, "quant.w_qconfig", true)?;
    let activation = tensor(&quant.a_qconfig, "quant.a_qconfig", false)?;
    let reconstruction = match &quant.recon {
        None => Value::from("none"),
        Some(r) => {
            if let Some(mode) = r.round_mode.as_deref().filter(|m| *m != "learned_hard_sigmoid") {
                let message = format!("'{mode}' is not supported, only learned_hard_sigmoid");
                return Err(Error::setting("quant.recon.round_mode", message));
            }
            mapping([
                ("name", "qdrop".into()),
                (
                    "params",
                    mapping([
                        ("iters", (r.iters as u64).into()),
                        ("batch_size", (r.batch_size as u64).into()),
                        // The reference uses Adam's default learning rate for alpha.
                        ("lr", 1e-3.into()),
                        ("scale_lr", r.scale_lr.into()),
                        ("weight", r.weight.into()),
                        ("warm_up", r.warm_up.into()),
                        ("b_range", Value::Sequence(r.b_range.map(Value::from).to_vec())),
                        ("drop_prob", r.drop_prob.into()),
                    ]),
                ),
            ])
        }
    };
    let path = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    Ok(mapping([
        ("name", format!("{}_w{}a{}", config.model.kind, quant.w_qconfig.bit, quant.a_qconfig.bit).into()),
        ("model", mapping([("architecture", architecture), ("weights", path(&config.model.path))])),
        (
            "data",
            mapping([
                ("name", "image_folder".into()),
                (
                    "params",
                    mapping([
                        ("root", path(&data.path)),
                        ("class_list", "imagenet-1k".into()),
                        ("resize", (data.test_resize as u64).into()),
                    ]),
                ),
            ]),
        ),
        ("quant", mapping([("setting", "qdrop".into()), ("weight", weight), ("activation", activation)])),
        ("calibration", mapping([("images", (quant.calibrate as u64).into())])),
        ("reconstruction", reconstruction),
        ("evaluation", mapping([("batch_size", (data.batch_size as u64).into())])),
        ("seed", config.process.seed.into()),
    ]))
}

/// The architecture. The keyword arguments of the reference's constructor become its parameters.
fn architecture(model: &Model, input_size: usize) -> Result<Value> {
    let models: Mapping = serde_yaml::from_str(MODELS).map_err(Error::message)?;
    let Some(found) = models.get(model.kind.as_str()) else {
        let known: Vec<_> = models.keys().filter_map(Value::as_str).collect();
        let message = format!("'{}' is none of the reference's models: {}", model.kind, known.join(", "));
        return Err(Error::setting("model.type", message));
    };
    let name = found.get("name").unwrap_or(found).clone();
    let mut params = found.get("params").and_then(Value::as_mapping).cloned().unwrap_or_default();
    for (key, value) in &model.kwargs {
        let key = if key == "num_classes" { Value::from("classes") } else { key.clone() };
        params.insert(key, value.clone());
    }
    if input_size != 224 {
        params.insert("image_size".into(), (input_size as u64).into());
    }
    Ok(if params.is_empty() { name } else { mapping([("name", name), ("params", Value::Mapping(params))]) })
}

/// A tensor's section. The reference's class names need no conversion, because they are aliases of the strategies.
fn tensor(config: &Tensor, path: &str, is_weight: bool) -> Result<Value> {
    let granularity = match (config.ch_axis, is_weight) {
        (-1, _) => "per_tensor",
        (0, true) => "per_channel",
        (axis, _) => {
            let message = format!("{axis} is not supported; -1 is per tensor, 0 per output channel of a weight");
            return Err(Error::setting(format!("{path}.ch_axis"), message));
        }
    };
    Ok(mapping([
        ("bits", config.bit.into()),
        ("symmetric", config.symmetric.into()),
        ("granularity", granularity.into()),
        ("observer", config.observer.as_str().into()),
        ("quantizer", config.quantizer.as_str().into()),
    ]))
}

fn mapping<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Mapping(entries.into_iter().map(|(k, v)| (Value::from(k), v)).collect())
}
