//! What each layer and each unit alone loses at few bits, and bits that are chosen from it.

use super::Run;
use crate::error::{At, Result, Stage};
use crate::kept::Analysis;
use qdrop_core::pipeline::{Session, Subject};
use qdrop_core::progress::{Event, Progress};
use qdrop_core::recipe::MixedRecipe;

/// Images on which layers are measured before bits are chosen.
const CHOOSING_IMAGES: usize = 128;

impl Run<'_> {
    /// Measures each layer and each unit alone at each of [`Analysis::BITS`], weights and activations apart: how far the network
    /// is from the float one on so many calibration images, with nearest rounding and the ranges that the recipe's observers give.
    /// The recipe's preparations are applied before. Nothing is reconstructed, and no label is needed.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), weights or images are not given, the task does not compare networks, or the work was
    /// cancelled.
    pub fn analyze(&self, images: usize) -> Result<Analysis> {
        self.measure_alone(images, &Analysis::BITS, &|_, _| true, &self.progress)
    }

    /// Chooses the bits of single layers, if the recipe asks for it (`quant.mixed`), from what each of them alone loses on the first
    /// 128 calibration images. The recipe has them then. [`quantize`](Self::quantize) does this for a new run, unless it was done before;
    /// `None` if the recipe does not ask for it.
    ///
    /// # Errors
    /// Those of [`analyze`](Self::analyze), or nothing is within the budget.
    pub fn choose_bits(&mut self) -> Result<Option<&MixedRecipe>> {
        if let Some(mixed) = self.recipe.quant.mixed.clone().filter(|mixed| mixed.chosen.is_none()) {
            let images = self.recipe.calibration.images.min(CHOOSING_IMAGES);
            let asked = |session: &Session<'_>, subject: &Subject| session.chooses(&mixed, subject);
            let analysis = self.measure_alone(images, &mixed.choices, &asked, &Preparing(&self.progress))?;
            self.recipe = self.session()?.choose_bits(&analysis.sensitivities).at(Stage::Analysis)?;
            self.choice = Some(analysis);
        }
        Ok(self.recipe.quant.mixed.as_ref())
    }

    /// Measures the parts of the network that `asked` names alone at each of `bits`.
    fn measure_alone(
        &self,
        images: usize,
        bits: &[u32],
        asked: &dyn Fn(&Session<'_>, &Subject) -> bool,
        progress: &dyn Progress,
    ) -> Result<Analysis> {
        let mut recipe = self.recipe.clone();
        recipe.calibration.images = images;
        recipe.calibration.observe = recipe.calibration.observe.min(images);
        recipe.calibration.group = recipe.calibration.group.map(|group| group.min(images));
        // Analysis reconstructs nothing, so no reconstructor has to like the number of images.
        recipe.reconstruction = serde_yaml::from_str("none").map_err(qdrop_core::Error::message).at(Stage::Setup)?;
        recipe.calibration.inputs = Default::default();
        recipe.calibration.refine = 0;
        let session = Session::new(recipe, &self.registries, self.device.clone()).at(Stage::Setup)?;
        let (mut model, place) = session.float_network().at(Stage::FloatNetwork)?;
        self.tell(place);
        let cache = session.cache(std::env::temp_dir());
        let set = session.calibration_images(&cache, progress).at(Stage::CalibrationImages)?;
        session.prepare(&mut model, &set.images, progress).at(Stage::Preparation)?;
        let images = set.images.samples();
        let asked = |subject: &Subject| asked(&session, subject);
        let sites = session.sites(&model, &set.images, progress).at(Stage::Analysis)?;
        let sensitivities = session.sensitivities(&model, (set.images, cache), bits, &asked, progress);
        let sensitivities = sensitivities.at(Stage::Analysis)?;
        Ok(Analysis { metrics: session.task().deviation_metrics(), sensitivities, images, sites })
    }
}

/// Leaves out what the preparations did, which the run that follows says.
struct Preparing<'a>(&'a dyn Progress);

impl Progress for Preparing<'_> {
    fn event(&self, event: Event<'_>) {
        if !matches!(event, Event::Prepared { .. }) {
            self.0.event(event);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
