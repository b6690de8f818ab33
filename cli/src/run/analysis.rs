//! What each layer and each unit alone loses at few bits.

use super::Run;
use crate::error::{At, Result, Stage};
use qdrop_core::pipeline::{Sensitivity, Session};
use qdrop_core::task::Metric;

/// What each layer and each unit alone loses, as [`Run::analyze`] measures it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Analysis {
    /// What is measured; layers are ranked by the first one.
    pub metrics: Vec<Metric>,
    /// The measurements, in the order of execution; layers come before their unit.
    pub sensitivities: Vec<Sensitivity>,
    /// Number of images.
    pub images: usize,
}

impl Analysis {
    /// Bits that are measured.
    pub const BITS: [u32; 4] = [2, 3, 4, 8];
}

impl Run<'_> {
    /// Measures each layer and each unit alone at each of [`Analysis::BITS`], weights and activations apart: how far the network
    /// is from the float one on so many calibration images, with nearest rounding and the ranges that the recipe's observers give.
    /// The recipe's preparations are applied before. Nothing is reconstructed, and no label is needed.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), weights or images are not given, the task does not compare networks, or the work was
    /// cancelled.
    pub fn analyze(&self, images: usize) -> Result<Analysis> {
        let mut recipe = self.recipe.clone();
        recipe.calibration.images = images;
        recipe.calibration.observe = recipe.calibration.observe.min(images);
        // Analysis reconstructs nothing, so no reconstructor has to like the number of images.
        recipe.reconstruction = serde_yaml::from_str("none").map_err(qdrop_core::Error::message).at(Stage::Setup)?;
        recipe.calibration.inputs = Default::default();
        recipe.calibration.refine = 0;
        let session = Session::new(recipe, &self.registries, self.device.clone()).at(Stage::Setup)?;
        let (mut model, place) = session.float_network().at(Stage::FloatNetwork)?;
        self.tell(place);
        let cache = session.cache(std::env::temp_dir());
        let set = session.calibration_images(&cache, &self.progress).at(Stage::CalibrationImages)?;
        session.prepare(&mut model, &set.images, &self.progress).at(Stage::Preparation)?;
        let images = set.images.samples();
        let sensitivities = session.sensitivities(&model, (set.images, cache), &Analysis::BITS, &self.progress);
        let sensitivities = sensitivities.at(Stage::Analysis)?;
        Ok(Analysis { metrics: session.task().deviation_metrics(), sensitivities, images })
    }
}
