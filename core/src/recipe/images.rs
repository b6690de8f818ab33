//! The sections of a recipe about its images: for calibration and for evaluation.

use serde::{Deserialize, Serialize};

/// Size of the calibration set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRecipe {
    /// Number of images for reconstruction.
    #[serde(default = "default_images")]
    pub images: usize,
    /// Number of these images, in one batch, that the activation observers observe.
    #[serde(default = "default_observe")]
    pub observe: usize,
    /// From which inputs these images' values in a unit are computed: `float`, or `quantized` (needs a reconstruction).
    #[serde(default, skip_serializing_if = "CalibrationInputs::is_float")]
    pub inputs: CalibrationInputs,
    /// Number of these images on which the range of each activation is refined: widened or narrowed so that the network's
    /// outputs change least when this activation is quantized and nothing else. 0: ranges stay as observed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refine: usize,
    /// For images of different sizes: so many of one orientation form a group. They are padded to one size, stay together in
    /// every step, and are observed together. All images have one size without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
    /// Share of the images, in percent, that may be broken. They are reported and left out; more of them are an error.
    #[serde(default = "default_broken", skip_serializing_if = "is_default_broken")]
    pub max_broken_percent: f64,
}

fn default_broken() -> f64 {
    1.0
}

fn is_default_broken(percent: &f64) -> bool {
    *percent == default_broken()
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn default_images() -> usize {
    1024
}

fn default_observe() -> usize {
    256
}

impl Default for CalibrationRecipe {
    fn default() -> Self {
        Self {
            images: default_images(),
            observe: default_observe(),
            inputs: CalibrationInputs::default(),
            refine: 0,
            group: None,
            max_broken_percent: default_broken(),
        }
    }
}

/// How a network is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationRecipe {
    /// Images per forward pass.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Evaluates only this number of images, from the first on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Share of the images, in percent, that may be broken. They are reported and not counted; more of them are an
    /// error.
    #[serde(default = "default_broken", skip_serializing_if = "is_default_broken")]
    pub max_broken_percent: f64,
    /// Whether a quantized network is also compared with the float network on the same images, as the task says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub against_float: bool,
}

fn default_batch() -> usize {
    64
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self { batch_size: default_batch(), images: None, max_broken_percent: default_broken(), against_float: false }
    }
}

/// From which inputs of its unit the range of an activation is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationInputs {
    /// Those of the full-precision network (QDrop's reference).
    #[default]
    Float,
    /// Those of the full-precision network at first. Just before a unit is reconstructed, its ranges are observed again
    /// from its inputs in the network quantized so far (BRECQ, arXiv 2102.05426; PD-Quant, arXiv 2212.07048).
    Quantized,
}

impl CalibrationInputs {
    pub(super) fn is_float(&self) -> bool {
        *self == Self::Float
    }
}
