//! The recipe: what a YAML file says. Nothing else knows the layout of the file.

mod edit;
mod registered;
mod strategy;

pub use edit::{apply_set, merge};
pub use registered::RecipeKind;
pub use strategy::{ReconstructionRecipe, Strategy};

use crate::cache::CacheType;
use crate::engine::Engine;
use crate::error::{Error, Result};

use crate::params::{join, parse_value};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize, Serializer};
use serde_yaml::Value;
use std::path::{Path, PathBuf};

/// Everything that determines a quantization run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name for reports.
    pub name: String,
    /// What the recipe is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Published values to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// What the network is for: `classification` unless it says otherwise.
    #[serde(default = "default_task", skip_serializing_if = "is_default_task")]
    pub task: Strategy,
    /// Plugins to load, relative to the recipe: files, or folders of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PathBuf>,
    /// The network.
    pub model: ModelRecipe,
    /// The dataset.
    pub data: Strategy,
    /// Replaces the folder that the dataset's own parameters name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_root: Option<PathBuf>,
    /// Bit widths, observers and quantizers.
    pub quant: QuantRecipe,
    /// The calibration set.
    #[serde(default)]
    pub calibration: CalibrationRecipe,
    /// How calibration values are kept.
    #[serde(default)]
    pub cache: CacheRecipe,
    /// The reconstructor, and units that it reconstructs together.
    pub reconstruction: ReconstructionRecipe,
    /// Shorten the reconstruction of each unit to so many iterations, with the learning rates
    /// scaled up; the result is not comparable with a full run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_iters: Option<usize>,
    /// Which engine reconstructs a unit: `auto` (fused where a unit allows it), `generic` or `fused`.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub engine: Engine,
    /// How the network is measured.
    #[serde(default)]
    pub evaluation: EvaluationRecipe,
    /// Seed of every random draw.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Further runs, shown beside this one in the report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Variant>,
    /// Folder that relative paths start from; the recipe's own by default.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub base_dir: PathBuf,
}

/// Values of the task's first metric that were published for a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// That of the float network. Before a run a sample is measured and compared.
    pub float: f64,
    /// That of the quantized network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<f64>,
}

/// The task of recipes that name none.
const DEFAULT_TASK: &str = "classification";

fn default_task() -> Strategy {
    Strategy { name: DEFAULT_TASK.into(), params: Value::Null }
}

fn is_default_task(task: &Strategy) -> bool {
    *task == default_task()
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

/// Which layers keep 8 bits. Results in one setting are not comparable with the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// First and last weight and the last activation at 8 bits (QDrop).
    Qdrop,
    /// As `qdrop`, and the first layer's output at 8 bits too (BRECQ).
    Brecq,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qdrop => "qdrop",
            Self::Brecq => "brecq",
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
    /// Exceptions; later ones win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// How one kind of tensor is quantized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRecipe {
    /// Bit width, 1 to 16.
    pub bits: u32,
    /// Whether zero lies in the middle of the grid.
    #[serde(default)]
    pub symmetric: bool,
    /// Which elements share a scale.
    pub granularity: GranularityRecipe,
    /// Statistics for the range.
    pub observer: Strategy,
    /// The mapping.
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

/// An exception for the sites whose unit or node name matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Glob over unit names and site names, such as `layer1.*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Leave weights and activations in floating point.
    #[serde(default)]
    pub float: bool,
    /// Changes for weights.
    #[serde(default)]
    pub weight: TensorOverride,
    /// Changes for activations.
    #[serde(default)]
    pub activation: TensorOverride,
}

/// Changes of a [`TensorRecipe`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorOverride {
    /// Leave this kind of tensor in floating point.
    #[serde(default)]
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

/// Size of the calibration set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRecipe {
    /// Images for reconstruction.
    #[serde(default = "default_images")]
    pub images: usize,
    /// How many of them, in one batch, the activation observers see.
    #[serde(default = "default_observe")]
    pub observe: usize,
}

fn default_images() -> usize {
    1024
}

fn default_observe() -> usize {
    256
}

impl Default for CalibrationRecipe {
    fn default() -> Self {
        Self { images: default_images(), observe: default_observe() }
    }
}

/// How the values of all calibration samples are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRecipe {
    /// How much memory they may take, such as `4GiB`; the rest goes to files.
    #[serde(default = "default_limit", serialize_with = "exactly")]
    pub limit: ByteSize,
    /// `f32`, or `f16` for half the size and 11 significant bits.
    #[serde(default)]
    pub dtype: CacheType,
    /// Folder for what does not fit; the run directory by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<PathBuf>,
}

/// Exactly: the library's text form is rounded.
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

/// How a network is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecipe {
    /// Images per forward pass.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Only the first so many images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
}

fn default_batch() -> usize {
    64
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self { batch_size: default_batch(), images: None }
    }
}

/// A second way to run the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Name in the report.
    pub name: String,
    /// `key: value` changes, as for `--set`.
    pub set: serde_yaml::Mapping,
}

impl Recipe {
    /// Reads a recipe from YAML text; `origin` is the file's name for messages.
    ///
    /// # Errors
    /// Not YAML, an unknown or missing key, a wrong type; with the path of the key.
    pub fn from_yaml(text: &str, origin: &Path) -> Result<Self> {
        Self::from_value(parse_yaml(text, origin)?, origin)
    }

    /// Reads a recipe from a YAML value.
    ///
    /// # Errors
    /// An unknown or missing key, a wrong type; with the path of the key.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self> {
        let mut recipe: Self = parse_value(value, "").map_err(|e| Error::data(origin, e))?;
        recipe.validate().map_err(|e| Error::data(origin, e))?;
        if recipe.base_dir.as_os_str().is_empty() {
            recipe.base_dir = origin.parent().unwrap_or(Path::new("")).into();
        }
        Ok(recipe)
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
        let positive = [
            ("calibration.images", self.calibration.images),
            ("calibration.observe", self.calibration.observe),
            ("evaluation.batch_size", self.evaluation.batch_size),
        ];
        match positive.iter().find(|(_, v)| *v == 0) {
            Some((path, _)) => Err(Error::setting(*path, "must be at least 1")),
            None => Ok(()),
        }
    }

    /// The recipe as YAML text.
    ///
    /// # Errors
    /// The YAML library's.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self).map_err(Error::message)
    }

    /// The recipe with a variant's changes, without further variants.
    ///
    /// # Errors
    /// A key does not exist.
    pub fn variant(&self, variant: &Variant) -> Result<Self> {
        let origin = self.base_dir.join(&self.name);
        let mut value = serde_yaml::to_value(self).map_err(Error::message)?;
        for (key, new) in &variant.set {
            let key = key.as_str().ok_or_else(|| Error::setting("compare.set", "keys are text"))?;
            edit::set_path(&mut value, key, new.clone())?;
        }
        let mut recipe = Self::from_value(value, &origin)?;
        recipe.compare.clear();
        Ok(recipe)
    }

    /// A path of the recipe made absolute.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base_dir.join(path)
    }

    /// A short name for the bit widths, such as `w2a4`.
    pub fn bits(&self) -> String {
        format!("w{}a{}", self.quant.weight.bits, self.quant.activation.bits)
    }
}

fn check_bits(bits: u32, path: &str) -> Result<()> {
    use crate::grid::{Granularity, QuantSpec};
    QuantSpec::new(bits, false, Granularity::PerTensor, path).map(|_| ())
}

/// Parses YAML text.
///
/// # Errors
/// Not YAML; with line and column.
pub fn parse_yaml(text: &str, origin: &Path) -> Result<Value> {
    serde_yaml::from_str(text).map_err(|e| Error::data(origin, format!("not valid YAML: {e}")))
}

#[cfg(test)]
mod tests;
