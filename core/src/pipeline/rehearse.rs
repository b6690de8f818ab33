//! Checks before a run that every unit can be reconstructed.

use super::reconstruct::units_of;
use super::Session;
use crate::cache::{CacheBudget, CachedValues};
use crate::engine::UnitSamples;
use crate::error::{Error, Result};
use crate::graph::{network_unit, Graph, NodeId, Unit};
use crate::grid::Range;
use crate::model::QuantModel;
use crate::progress::{Event, Progress};
use crate::reconstructor::{Context, Forget, Reconstructor, UnitTask};
use candle_core::Tensor;
use std::sync::Arc;

/// Requests to stop before the first step.
struct BeforeFirstStep;

impl Progress for BeforeFirstStep {
    fn event(&self, _: Event<'_>) {}

    fn cancelled(&self) -> bool {
        true
    }
}

impl Session<'_> {
    /// Checks that `images` calibration images are enough for the reconstructor, and that it can begin every unit of the
    /// network: the groups of units exist, the quantizers can learn where they are, each of their parameters has a
    /// learning rate, and the engine can compute the unit. A reconstructor that does not ask for requests to stop runs one
    /// step of each unit on a made-up image; one that does not iterate is not tried. `model` is a float network of the session; its
    /// weights do not matter.
    ///
    /// # Errors
    /// A run of the recipe would fail, or it was cancelled.
    pub fn rehearse(&self, mut model: QuantModel, images: usize, progress: &dyn Progress) -> Result<()> {
        let mut reconstructor = self.build_reconstructor()?;
        reconstructor.check_samples(images)?;
        let units = units_of(model.graph(), reconstructor.grouping(), &self.recipe().reconstruction.merge)?;
        if reconstructor.steps() == 0 {
            return Ok(());
        }
        reconstructor.shorten(1)?;
        let plans = self.plans_of(model.graph())?;
        self.place(&mut model, &plans)?;
        set_any_ranges(&mut model)?;
        let graph = model.graph().for_checks()?;
        let network = (reconstructor.network_steps() > 0).then(|| network_unit(model.graph())).transpose()?;
        for (index, unit) in units.iter().chain(&network).enumerate() {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            match self.begin((&mut model, &graph), &*reconstructor, unit, (index, index == units.len())) {
                Ok(()) | Err(Error::Cancelled) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets the reconstructor begin a unit, or the whole network as one, on one made-up image, or group of images. Values have the shapes
    /// of `graph`.
    fn begin(
        &self,
        (model, graph): (&mut QuantModel, &Graph),
        reconstructor: &dyn Reconstructor,
        unit: &Unit,
        (index, whole): (usize, bool),
    ) -> Result<()> {
        let device = model.device().clone();
        let group = self.recipe().calibration.group;
        let of = |ids: &[NodeId]| -> Result<Vec<Arc<CachedValues>>> {
            let image = |id: &NodeId| {
                let dims = [&[group.unwrap_or(1)], graph.node(*id).shape.as_slice()].concat();
                // Any values that differ serve.
                let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i % 251) as f32 / 251.0).collect();
                let mut all = CachedValues::new(CacheBudget::unlimited(), device.clone()).in_groups(group);
                all.push(&Tensor::from_vec(values, dims, &device)?)?;
                Ok(Arc::new(all))
            };
            ids.iter().map(image).collect()
        };
        let inputs = of(unit.subgraph.inputs())?;
        let samples = UnitSamples {
            quantized_inputs: inputs.clone(),
            float_inputs: inputs,
            float_outputs: of(unit.subgraph.outputs())?,
            passing: Vec::new(),
            ranges: Vec::new(),
        };
        let mut task = UnitTask::new(model, unit, index, samples)?;
        let engine = self.recipe().engine;
        let random = self.random();
        let context = Context { random: &random, progress: &BeforeFirstStep, interruption: &Forget, engine };
        match whole {
            true => reconstructor.reconstruct_network(&mut task, &context),
            false => reconstructor.reconstruct(&mut task, &context),
        }
        .map(|_| ())
    }
}

/// Gives all quantizers the range -1 to 1.
fn set_any_ranges(model: &mut QuantModel) -> Result<()> {
    let device = model.device().clone();
    let ids: Vec<NodeId> = model.graph().nodes().skip(1).map(|(id, _)| id).collect();
    let range = |channels: usize| Range { min: vec![-1.0; channels], max: vec![1.0; channels] };
    for id in ids {
        let value = [&[1], model.graph().node(id).shape.as_slice()].concat();
        if model.weight_site_mut(id).is_some() {
            let dims = model.weight(id)?.dims().to_vec();
            if let Some(site) = model.weight_site_mut(id) {
                let channels = site.quantizer.spec().granularity.channels(&dims)?.count;
                site.quantizer.set_range(&range(channels), &device)?;
            }
        }
        if let Some(site) = model.activation_site_mut(id) {
            let channels = site.quantizer.spec().granularity.channels(&value)?.count;
            site.quantizer.set_range(&range(channels), &device)?;
        }
    }
    Ok(())
}
