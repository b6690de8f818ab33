//! The recipe: the content of a YAML file. Only this module knows the layout of the file.

mod edit;
mod folders;
mod images;
mod mixed;
mod path;
mod registered;
mod short;
mod strategy;
mod text;

pub use edit::{apply_set, merge};
pub use folders::Folders;
pub use images::{CalibrationInputs, CalibrationRecipe, EvaluationRecipe};
pub use mixed::{Budget, ChosenBits, MixedRecipe, Target};
pub use path::RecipePath;
pub use registered::RecipeKind;
pub use short::write_out;
pub use strategy::{ReconstructionRecipe, Strategy};
pub use text::{parse_yaml, read_yaml};

use crate::cache::CacheType;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::SiteKind;
use crate::params::{join, parse_value, ParamFolders};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize, Serializer};
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Everything that determines a quantization run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name in reports.
    pub name: String,
    /// A text for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Published values to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// The network's task; `classification` by default.
    #[serde(default = "default_task", skip_serializing_if = "is_default_task")]
    pub task: Strategy,
    /// Plugins to load, relative to the recipe: files, or folders of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "path::list")]
    pub plugins: Vec<PathBuf>,
    /// The network.
    pub model: ModelRecipe,
    /// The dataset.
    pub data: Strategy,
    /// The dataset's folder; replaces the one in the dataset's own parameters.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path::option")]
    pub data_root: Option<PathBuf>,
    /// What is done to the float network before calibration, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<Strategy>,
    /// Bit widths, observers and quantizers.
    pub quant: QuantRecipe,
    /// The calibration set.
    #[serde(default)]
    pub calibration: CalibrationRecipe,
    /// How cached values are kept.
    #[serde(default)]
    pub cache: CacheRecipe,
    /// The reconstructor, and groups of units that it reconstructs together.
    pub reconstruction: ReconstructionRecipe,
    /// Reconstructs each unit with this number of iterations instead, and learning rates to match, see
    /// [`Reconstructor::shorten`](crate::reconstructor::Reconstructor::shorten).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_iters: Option<usize>,
    /// The engine that reconstructs a unit: `auto` (fused if it can compute the unit), `generic` or `fused`.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub engine: Engine,
    /// Whether a GPU may compute the products of convolutions in TF32, which is faster and keeps 10 bits of a number's
    /// fraction.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tf32: bool,
    /// How the network is evaluated.
    #[serde(default)]
    pub evaluation: EvaluationRecipe,
    /// Seed of every random draw.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Variants of the recipe that also run and are shown in the report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Variant>,
    /// Folder that relative paths start from; the recipe's own folder by default.
    #[serde(default, skip_serializing_if = "is_empty", with = "path::one")]
    pub base_dir: PathBuf,
    /// Folders that the paths of single keys start from, where they differ from `base_dir`: those of recipes in other
    /// folders that this one extends.
    #[serde(default, skip_serializing_if = "Folders::is_empty")]
    pub folders: Folders,
}

/// Published values of the task's first metric, for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Value of the float network. Before a run, a measurement on a sample is compared with it.
    pub float: f64,
    /// Value of the quantized network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<f64>,
}

/// The task of recipes that name no task.
const DEFAULT_TASK: &str = "classification";

fn default_task() -> Strategy {
    Strategy::new(DEFAULT_TASK, Value::Null)
}

fn is_default_task(task: &Strategy) -> bool {
    task.name == DEFAULT_TASK && task.params.is_null()
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn is_auto(engine: &Engine) -> bool {
    *engine == Engine::Auto
}

fn default_seed() -> u64 {
    1005
}

/// The network and its checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// The architecture.
    pub architecture: Strategy,
    /// The checkpoint with the float weights.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path::option")]
    pub weights: Option<PathBuf>,
    /// Where the weights are in the checkpoint, such as `state_dict_ema`; `""` where they lie under no key. Without it,
    /// the place that fits the network best is used, and an average (EMA) goes before other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_key: Option<String>,
}

/// Which layers keep 8 bits. Results of different settings are not comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// First and last weight and the last activation at 8 bits (QDrop).
    Qdrop,
    /// As `qdrop`, and the first layer's output at 8 bits too (BRECQ).
    Brecq,
    /// The first weight alone at 8 bits (QDrop on COCO).
    FirstWeight,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qdrop => "qdrop",
            Self::Brecq => "brecq",
            Self::FirstWeight => "first_weight",
        })
    }
}

/// What is quantized, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantRecipe {
    /// Which layers keep 8 bits.
    pub setting: Setting,
    /// Weights.
    pub weight: TensorRecipe,
    /// Activations.
    pub activation: TensorRecipe,
    /// Bits that are chosen for each layer before the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed: Option<MixedRecipe>,
    /// Exceptions for some sites; later ones take precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// How one kind of tensor is quantized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRecipe {
    /// Bit width, 1 to 16.
    pub bits: u32,
    /// Whether the grid is symmetric around zero, with zero point 0.
    #[serde(default)]
    pub symmetric: bool,
    /// Which elements share a scale.
    pub granularity: GranularityRecipe,
    /// The observer, which determines the range.
    pub observer: Strategy,
    /// The quantizer, which maps values to the grid.
    pub quantizer: Strategy,
}

/// Which elements of a tensor share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GranularityRecipe {
    /// The whole tensor.
    PerTensor,
    /// Each output channel of a weight, each channel of an activation.
    PerChannel,
}

/// An exception for sites whose unit name or own name matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Glob over unit names and site names, such as `layer1.*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Whether weights and activations stay in floating point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub float: bool,
    /// Changes for the weights.
    #[serde(default, skip_serializing_if = "TensorOverride::is_none")]
    pub weight: TensorOverride,
    /// Changes for the activations.
    #[serde(default, skip_serializing_if = "TensorOverride::is_none")]
    pub activation: TensorOverride,
}

/// Changes of a [`TensorRecipe`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorOverride {
    /// Whether this kind of tensor stays in floating point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub float: bool,
    /// Another bit width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
    /// Another observer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<Strategy>,
    /// Another quantizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantizer: Option<Strategy>,
}

impl TensorOverride {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How the cached values of all calibration samples are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRecipe {
    /// Memory limit, such as `4GiB`; the rest goes to files.
    #[serde(default = "default_limit", serialize_with = "exactly")]
    pub limit: ByteSize,
    /// Data type: `f32`, or `f16` with half the size and 11 significant bits.
    #[serde(default)]
    pub dtype: CacheType,
    /// Folder for values beyond the memory limit; the run directory by default.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path::option")]
    pub spill: Option<PathBuf>,
}

/// Serializes a size without rounding; the text form of `ByteSize` is rounded.
fn exactly<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = size.as_u64();
    match [("GiB", 30), ("MiB", 20)].iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((unit, shift)) => serializer.collect_str(&format_args!("{}{unit}", bytes >> shift)),
        None => serializer.serialize_u64(bytes),
    }
}

fn default_limit() -> ByteSize {
    ByteSize::gib(4)
}

impl Default for CacheRecipe {
    fn default() -> Self {
        Self { limit: default_limit(), dtype: CacheType::default(), spill: None }
    }
}

/// A variant of the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Name in the report.
    pub name: String,
    /// Changes as `key: value`, with the keys of `--set`.
    pub set: serde_yaml::Mapping,
}

impl Recipe {
    /// Reads a recipe from YAML text. `origin` is the file's name for messages.
    ///
    /// # Errors
    /// The text is not YAML, a key is unknown or missing, or a type is wrong; the message has the path of the key.
    pub fn from_yaml(text: &str, origin: &Path) -> Result<Self> {
        Self::from_value(parse_yaml(text, origin)?, origin)
    }

    /// Reads a recipe from a YAML value.
    ///
    /// # Errors
    /// A key is unknown or missing, or a type is wrong; the message has the path of the key.
    pub fn from_value(mut value: Value, origin: &Path) -> Result<Self> {
        write_out(&mut value);
        let mut recipe: Self = parse_value(value, "").map_err(|e| Error::data(origin, e))?;
        recipe.validate().map_err(|e| Error::data(origin, e))?;
        if recipe.base_dir.as_os_str().is_empty() {
            recipe.base_dir = origin.parent().unwrap_or(Path::new("")).into();
        }
        recipe.tell_folders();
        Ok(recipe)
    }

    /// The recipe with other folders that its relative paths start from: `base_dir`, and those of single keys.
    pub fn in_folders(self, base_dir: PathBuf, folders: Folders) -> Self {
        let mut recipe = Self { base_dir, folders, ..self };
        recipe.tell_folders();
        recipe
    }

    /// Tells each strategy the folders that paths in its parameters start from.
    fn tell_folders(&mut self) {
        let Self { base_dir, folders, task, model, data, prepare, quant, reconstruction, .. } = self;
        let at = |key: &str| ParamFolders::new(base_dir, folders.below(&join(key, "params")));
        task.folders = at("task");
        model.architecture.folders = at("model.architecture");
        data.folders = at("data");
        reconstruction.folders = at("reconstruction");
        for (i, strategy) in prepare.iter_mut().enumerate() {
            strategy.folders = at(&format!("prepare.{i}"));
        }
        for (key, tensor) in [("quant.weight", &mut quant.weight), ("quant.activation", &mut quant.activation)] {
            tensor.observer.folders = at(&join(key, "observer"));
            tensor.quantizer.folders = at(&join(key, "quantizer"));
        }
        for (i, o) in quant.overrides.iter_mut().enumerate() {
            for (kind, tensor) in [("weight", &mut o.weight), ("activation", &mut o.activation)] {
                for (key, strategy) in [("observer", &mut tensor.observer), ("quantizer", &mut tensor.quantizer)] {
                    let key = format!("quant.overrides.{i}.{kind}.{key}");
                    strategy.iter_mut().for_each(|s| s.folders = at(&key));
                }
            }
        }
    }

    fn validate(&self) -> Result<()> {
        for (path, tensor) in [("quant.weight", &self.quant.weight), ("quant.activation", &self.quant.activation)] {
            check_bits(tensor.bits, &join(path, "bits"))?;
        }
        for (i, o) in self.quant.overrides.iter().enumerate() {
            for (kind, tensor) in [("weight", &o.weight), ("activation", &o.activation)] {
                if let Some(bits) = tensor.bits {
                    check_bits(bits, &format!("quant.overrides[{i}].{kind}.bits"))?;
                }
            }
        }
        if let Some(mixed) = &self.quant.mixed {
            mixed.validate()?;
        }
        for (path, percent) in [
            ("calibration.max_broken_percent", self.calibration.max_broken_percent),
            ("evaluation.max_broken_percent", self.evaluation.max_broken_percent),
        ] {
            if !(0.0..=100.0).contains(&percent) {
                return Err(Error::setting(path, format!("{percent} is no share in percent; use 0 to 100")));
            }
        }
        let positive = [
            ("calibration.images", self.calibration.images),
            ("calibration.observe", self.calibration.observe),
            ("evaluation.batch_size", self.evaluation.batch_size),
            ("evaluation.images", self.evaluation.images.unwrap_or(1)),
            ("run_iters", self.run_iters.unwrap_or(1)),
        ];
        if let Some((path, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::setting(*path, "must be at least 1"));
        }
        if self.cache.limit.as_u64() == 0 {
            let message =
                "must not be 0: values in use need memory; a small limit, such as 64MiB, keeps the others in files";
            return Err(Error::setting("cache.limit", message));
        }
        Ok(())
    }

    /// The recipe as YAML text.
    ///
    /// # Errors
    /// The recipe cannot be written as YAML.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self).map_err(Error::message)
    }

    /// The recipe with a variant's changes applied, without further variants.
    ///
    /// # Errors
    /// A key of the variant does not exist, or its value is invalid.
    pub fn variant(&self, variant: &Variant) -> Result<Self> {
        let mut value = serde_yaml::to_value(self).map_err(Error::message)?;
        let mut folders = self.folders.clone();
        let index = self.compare.iter().position(|v| v == variant);
        for (key, new) in &variant.set {
            let key = key.as_str().ok_or_else(|| Error::setting("compare.set", "keys are text"))?;
            edit::set_path(&mut value, key, new.clone())?;
            match index {
                Some(i) => folders.copy(&format!("compare.{i}.set.{key}"), key),
                None => folders.forget(key),
            }
        }
        value["folders"] = serde_yaml::to_value(folders).map_err(Error::message)?;
        let mut recipe = Self::from_value(value, Path::new(&self.name))?;
        recipe.compare.clear();
        Ok(recipe)
    }

    /// Makes the path at `key` of the recipe absolute: a relative one starts from the folder of the file in which it
    /// stands.
    pub fn resolve(&self, key: &str, path: &Path) -> PathBuf {
        self.folder(key).join(path)
    }

    /// The folder that a relative path at `key` starts from.
    pub(crate) fn folder(&self, key: &str) -> &Path {
        self.folders.get(key).unwrap_or(&self.base_dir)
    }

    /// A short name for the bit widths, such as `w2a4`. Where bits are chosen for single layers it has the least and the most of
    /// them, such as `w2-8a4`.
    pub fn bits(&self) -> String {
        let of = |kind: SiteKind, common: u32| {
            let chosen = self.quant.mixed.as_ref().and_then(|mixed| mixed.range(kind));
            match chosen.unwrap_or((common, common)) {
                (least, most) if least == most => least.to_string(),
                (least, most) => format!("{least}-{most}"),
            }
        };
        let (weight, activation) = (self.quant.weight.bits, self.quant.activation.bits);
        format!("w{}a{}", of(SiteKind::Weight, weight), of(SiteKind::Activation, activation))
    }
}

fn check_bits(bits: u32, path: &str) -> Result<()> {
    use crate::grid::{Granularity, QuantSpec};
    QuantSpec::new(bits, false, Granularity::PerTensor, path).map(|_| ())
}

#[cfg(test)]
mod tests;
