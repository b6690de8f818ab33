//! What activation observers see.

use serde::{Deserialize, Serialize};

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
