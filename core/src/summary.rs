//! The summary of a run.

use crate::preparation::Change;
use crate::task::Measurement;
use serde::{Deserialize, Serialize};

/// The measurements of a run and its conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the recipe.
    pub recipe: String,
    /// The recipe's setting: where quantizers are placed and which layers keep 8 bits.
    pub setting: String,
    /// Bit widths, such as `w2a4`; where bits were chosen for single layers, the least and the most, such as `w2-8a4`.
    pub bits: String,
    /// The budget under which bits of single layers were chosen, such as `avg 3.0 bits`, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed: Option<String>,
    /// Seed of the run.
    pub seed: u64,
    /// Name of the reconstructor.
    pub reconstruction: String,
    /// Measurement of the full-precision network.
    pub float: Measurement,
    /// Measurement of the quantized network.
    pub quantized: Measurement,
    /// Wall-clock time of calibration and reconstruction.
    pub seconds: f64,
    /// Largest resident memory of the process.
    pub peak_rss_bytes: u64,
    /// Largest memory of the GPU that was allocated at once, if one computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// What the recipe's preparations did to the float network: the name of each, and its changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<(String, Vec<Change>)>,
    /// Where the float weights were in the checkpoint, unless they were all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// A warning for comparisons with other results, such as that the run was shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}
