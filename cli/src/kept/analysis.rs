//! What single layers lose.

use qdrop_core::pipeline::Sensitivity;
use qdrop_core::report::SiteReport;
use qdrop_core::task::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What each layer and each unit alone loses, as [`Run::analyze`](crate::Run::analyze) measures it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Analysis {
    /// What is measured; layers are ranked by the first one.
    pub metrics: Vec<Metric>,
    /// The measurements, in the order of execution; layers come before their unit.
    pub sensitivities: Vec<Sensitivity>,
    /// Number of images.
    pub images: usize,
    /// What quantization does at each site with the recipe's bits, without reconstruction.
    #[serde(default)]
    pub sites: Vec<SiteReport>,
}

impl Analysis {
    /// Bits that [`Run::analyze`](crate::Run::analyze) measures.
    pub const BITS: [u32; 4] = [2, 3, 4, 8];

    /// Bits that were measured, in ascending order.
    pub fn bits(&self) -> Vec<u32> {
        self.sensitivities.iter().map(|one| one.bits).collect::<BTreeSet<u32>>().into_iter().collect()
    }
}
